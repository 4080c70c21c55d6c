// The demo: an application with three pages and a stream in each, behind a cable that can be pulled.
import { buildApp } from './app.js'
import { Board } from './board.js'
import { main } from './main.js'
import { createProxy } from './proxy.js'

async function startDemo ({ port }) {
  const proxy = createProxy()
  const board = new Board(proxy)
  const app = await buildApp({
    desk: {
      stats: () => board.stats(),
      pullCable: except => proxy.pullCable(except),
      deduplicate (on) {
        board.deduplicate = on
        app.startOver(on, proxy.isFrozen)
      }
    }
  })
  board.start(() => [app.report()])

  async function close () {
    board.close()
    proxy.close()
    await app.fastify.close()
  }

  try {
    await app.fastify.listen({ port: 0, host: '127.0.0.1' })
    const { port: appPort } = app.fastify.server.address()
    return { url: `http://localhost:${await proxy.listen({ port, to: [appPort] })}/`, close }
  } catch (error) {
    await close()
    throw error
  }
}

await main(startDemo, 'npm run demo')
