// One of the three processes: the demo's application in a cluster. Reports the streams to the parent process.
import { Redis } from 'ioredis'
import { redisCluster } from 'octa-star-streams/redis'
import { buildApp } from '../demo/app.js'

const [place, url] = process.argv.slice(2)
const redis = new Redis(url)
// ioredis reconnects by itself, and the adapter logs that Redis is unreachable.
redis.on('error', () => {})
const tell = message => process.connected && process.send(message)
let stats

const app = await buildApp({
  place,
  cluster: redisCluster({ redis }),
  desk: {
    stats: () => stats,
    pullCable: except => tell({ pullCable: { except } }),
    deduplicate: on => tell({ deduplicate: on })
  }
})

const firstStats = new Promise(resolve => {
  process.on('message', message => {
    if (message.stats === undefined) return app.startOver(message.deduplicate, connection => message.frozen.includes(connection))
    stats = message.stats
    resolve()
  })
})
const reporting = setInterval(() => tell({ report: app.report() }), 100)

// To stop the children, the parent disconnects. Ctrl-C signals the children too, so the children ignore the signal.
process.on('SIGINT', () => {})
process.once('disconnect', async () => {
  clearInterval(reporting)
  await app.fastify.close()
  redis.disconnect()
})

// A page may ask for the numbers as soon as this process listens.
await firstStats
await app.fastify.listen({ port: 0, host: '127.0.0.1' })
tell({ listening: app.fastify.server.address().port })
