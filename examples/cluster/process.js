// One of the three processes: the demo's application with a cluster, which tells its parent what it streams.
import { Redis } from 'ioredis'
import { redisCluster } from 'octa-star-streams/redis'
import { buildApp } from '../demo/app.js'

const [place, url] = process.argv.slice(2)
const redis = new Redis(url)
// ioredis goes on trying; that Redis is away the adapter logs.
redis.on('error', () => {})
const tell = message => process.connected && process.send(message)
let stats

const app = await buildApp({
  place,
  cluster: redisCluster({ redis }),
  desk: {
    stats: () => stats,
    pullCable: () => tell({ pullCable: true }),
    deduplicate: on => tell({ deduplicate: on })
  }
})

process.on('message', message => {
  if (message.stats !== undefined) stats = message.stats
  else app.startOver(message.deduplicate, connection => message.frozen.includes(connection))
})
const reporting = setInterval(() => tell({ report: app.report() }), 100)

// The parent ends its children by hanging up. Ctrl-C reaches them too, and is the parent's to answer.
process.on('SIGINT', () => {})
process.once('disconnect', async () => {
  clearInterval(reporting)
  await app.fastify.close()
  redis.disconnect()
})

await app.fastify.listen({ port: 0, host: '127.0.0.1' })
tell({ listening: app.fastify.server.address().port })
