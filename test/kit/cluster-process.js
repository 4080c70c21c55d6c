// One process of a cluster, on the build. Prints a line of JSON when the server listens, when a stream opens, and when a stream is gone.
import { Cluster, Redis } from 'ioredis'
import Fastify from 'fastify'
import octaStarStreams from 'octa-star-streams'
import { redisCluster } from 'octa-star-streams/redis'

const { REDIS_PORT, REDIS_CLUSTER, LEASE = '30000', REPLACE_TIMEOUT = '5000' } = process.env
// hrtime reads the same monotonic clock in all processes of a machine, so the times can be compared.
const say = line => process.stdout.write(`${JSON.stringify({ ...line, at: String(process.hrtime.bigint()) })}\n`)
const log = { level: 'warn', stream: { write: line => say({ event: 'log', line: JSON.parse(line) }) } }
const fastify = Fastify({ logger: log, forceCloseConnections: true })
const port = Number(REDIS_PORT)
const redis = REDIS_CLUSTER === undefined ? new Redis({ port }) : new Cluster([{ host: '127.0.0.1', port }])
redis.on('error', () => {})

await fastify.register(octaStarStreams, {
  tabId: request => request.query.tab,
  replaceTimeout: Number(REPLACE_TIMEOUT),
  cluster: redisCluster({ redis, lease: Number(LEASE) })
})

let calls = 0
fastify.get('/stream/:scope', { sse: 'only' }, async (request, reply) => {
  const { scope } = request.params
  const key = `${scope} ${request.query.tab}`
  // The plugin numbers the claims of a process in the same way: the nth call makes the claim with the number n.
  const number = ++calls
  const stream = await reply.startStream(scope)
  say({ event: 'open', key, number, id: stream.id })
  stream.gone.then(reason => say({ event: 'gone', key, number, id: stream.id, reason }))
  stream.keepAlive()
})
fastify.get('/count/:scope', request => fastify.streamRegistry.count(request.params.scope))
fastify.get('/size', async () => fastify.streamRegistry.size)
fastify.post('/evict/:scope', request => fastify.streamRegistry.evict(request.params.scope))
process.once('SIGTERM', async () => {
  await fastify.close()
  redis.disconnect()
})

await fastify.listen({ port: 0, host: '127.0.0.1' })
say({ event: 'listening', port: fastify.server.address().port })
