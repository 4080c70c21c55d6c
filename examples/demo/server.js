// The demo: an application with three pages and a stream in each, behind a cable that can be pulled.
import { buildApp } from './app.js'
import { Board } from './board.js'
import { main } from './main.js'
import { startProxy } from './proxy.js'

async function startDemo ({ port }) {
  let proxy
  const isFrozen = connection => proxy.isFrozen(connection)
  const board = new Board({ reports: () => [app.report()], isFrozen })
  const app = await buildApp({
    desk: {
      stats: () => board.stats(),
      pullCable: () => proxy.pullCable(),
      deduplicate (on) {
        board.deduplicate = on
        app.startOver(on, isFrozen)
      }
    }
  })

  async function close () {
    board.close()
    proxy?.close()
    await app.fastify.close()
  }

  try {
    await app.fastify.listen({ port: 0, host: '127.0.0.1' })
    proxy = await startProxy({ port, to: [app.fastify.server.address().port] })
  } catch (error) {
    await close()
    throw error
  }
  return { url: `http://localhost:${proxy.port}/`, close }
}

await main(startDemo, 'npm run demo')
