// The demo in three processes that share a Redis, behind a proxy that hands each new connection to the next process.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { Board } from '../demo/board.js'
import { main } from '../demo/main.js'
import { createProxy } from '../demo/proxy.js'
import { startRedis } from './redis.js'

const PROCESSES = 3

async function startDemo ({ port }) {
  const redis = await startRedis()
  const reports = Array.from({ length: PROCESSES }, () => ({ connections: [], replaced: 0 }))
  const proxy = createProxy()
  const board = new Board(proxy)
  board.start(() => reports)
  const children = reports.map((_, i) => fork(fileURLToPath(new URL('process.js', import.meta.url)), [`process ${i + 1}`, redis.url]))
  const tellAll = message => { for (const child of children) child.connected && child.send(message) }
  const telling = setInterval(() => tellAll({ stats: board.stats() }), 200)

  async function close () {
    clearInterval(telling)
    board.close()
    proxy.close()
    await Promise.all(children.map(async child => {
      if (child.exitCode !== null || child.signalCode !== null) return
      child.disconnect()
      await once(child, 'exit')
    }))
    await redis.close()
  }

  const listening = children.map((child, i) => new Promise((resolve, reject) => {
    child.on('message', ({ listening, report, pullCable, deduplicate }) => {
      if (listening !== undefined) resolve(listening)
      if (report !== undefined) reports[i] = report
      if (pullCable !== undefined) proxy.pullCable(pullCable.except)
      if (deduplicate !== undefined) {
        board.deduplicate = deduplicate
        tellAll({ deduplicate, frozen: proxy.frozen() })
      }
    })
    child.once('exit', code => {
      reports[i] = { ...reports[i], connections: [] }
      reject(new Error(`process ${i + 1} ended with code ${code}`))
    })
  }))

  try {
    return { url: `http://localhost:${await proxy.listen({ port, to: await Promise.all(listening) })}/`, close }
  } catch (error) {
    await close()
    throw error
  }
}

await main(startDemo, 'npm run example:cluster')
