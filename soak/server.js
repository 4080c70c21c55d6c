// A process under soak, on the build. Prints the events of streams, and the state of the process, each as a line of JSON.
import { EventEmitter } from 'node:events'
import diagnostics from 'node:diagnostics_channel'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import octaStarStreams from 'octa-star-streams'
import { redisCluster } from 'octa-star-streams/redis'
import { startSending } from './messages.js'
import { modes } from './modes.js'
import { Lateness } from './lateness.js'
import { derive } from './random.js'
import { BROADCAST_MS, clock, KEEP_ALIVE_MS, LEASE, LIMITS, SAMPLE_MS } from './settings.js'

const { PORT = '0', REPLACE_TIMEOUT, REDIS_PORT, SEED, SENDER } = process.env
// Called when the handler and the cleanups of a stream are over. Unlike `stream.gone`, the channel does not report streams that were given up before.
const onGone = new Map()
diagnostics.subscribe('octa-star:stream:close', ({ stream, reason, closing }) => {
  onGone.get(stream)?.(reason, clock() - closing)
  onGone.delete(stream)
})
const say = line => process.stdout.write(`${JSON.stringify({ ...line, at: clock() })}\n`)

process.on('unhandledRejection', error => say({ event: 'fault', what: 'unhandledRejection', error: String(error?.stack) }))
process.on('uncaughtException', error => say({ event: 'fault', what: 'uncaughtException', error: String(error?.stack) }))
process.on('warning', warning => say({ event: 'fault', what: 'warning', error: String(warning.stack) }))
// The process that started this process is gone.
process.stdin.on('end', () => process.exit(1)).resume().unref()

const log = { level: 'warn', stream: { write: line => say({ event: 'log', line: JSON.parse(line) }) } }
const fastify = Fastify({ logger: log, forceCloseConnections: true, keepAliveTimeout: KEEP_ALIVE_MS })
let redis
if (REDIS_PORT !== undefined) {
  // Reconnects at once, so that the plugin has to cope at once.
  redis = new Redis({ port: Number(REDIS_PORT), retryStrategy: () => 100 })
  redis.on('error', () => {})
}

await fastify.register(octaStarStreams, {
  ...LIMITS,
  replaceTimeout: Number(REPLACE_TIMEOUT),
  sse: { heartbeatInterval: 2_000 },
  ...redis === undefined ? {} : { cluster: redisCluster({ redis, lease: LEASE }) }
})

const bus = new EventEmitter().setMaxListeners(0)
const lateness = new Lateness()
const sent = new Map()
let broadcasts = 0
const broadcasting = setInterval(() => bus.emit('news', `news ${++broadcasts}`), BROADCAST_MS)

fastify.route({
  method: ['GET', 'POST'],
  url: '/stream/:scope',
  sse: 'only',
  async handler (request, reply) {
    const { id, name, mode, hold } = request.query
    const startAt = clock()
    say({ event: 'start', id })
    if (mode === 'throws before') {
      say({ event: 'refused', id, code: 'deliberate' })
      throw new Error('deliberate: before its stream')
    }
    let stream
    try {
      stream = await reply.startStream(request.params.scope, name === undefined ? {} : { name })
    } catch (error) {
      say({ event: 'refused', id, reason: error.reason, code: error.code })
      throw error
    }
    sent.set(id, 0)
    say({ event: 'open', id, streamId: stream.id, late: lateness.between(startAt, clock()) })
    onGone.set(stream, (reason, endingAt) => {
      say({ event: 'gone', id, reason, sent: sent.get(id), endingAt, late: lateness.between(endingAt, clock()) })
      sent.delete(id)
    })
    // Each event has a number, so that the client sees which events are missing.
    const write = data => {
      sent.set(id, sent.get(id) + 1)
      return stream.send({ event: 'n', id: String(sent.get(id)), data: `${id} ${data}` })
    }
    // Not an async function: if nobody awaits `send`, the plugin handles the rejection of exactly the promise that the plugin returned.
    const send = data => stream.closing ? undefined : write(data)
    // The application itself reports that the handler and the cleanups are over: the check does not trust the plugin here.
    let running = 1
    const over = () => { if (--running === 0) say({ event: 'over', id }) }
    const clean = work => {
      running++
      stream.onClose(async reason => {
        try {
          await work(reason)
        } finally {
          over()
        }
      })
    }
    try {
      await modes[mode]({ stream, bus, send, clean, hold: Number(hold), lastWord: () => write('last word') })
    } finally {
      over()
    }
  }
})

fastify.get('/other', async () => 'other')
fastify.get('/sent', async () => Object.fromEntries(sent))
fastify.post('/evict/:scope', async ({ params: { scope }, query: { id } }) => {
  say({ event: 'evict', id, scope })
  try {
    const count = await fastify.streamRegistry.evict(scope)
    say({ event: 'evicted', id, scope, count })
    return String(count)
  } catch (error) {
    // Redis is away, or a handler ignores the signal.
    if (error.code !== 'FST_ERR_OCTA_STAR_EVICT') throw error
    return 'not confirmed'
  }
})
fastify.get('/rest', async ({ query: { scopes } }) => {
  const counts = await Promise.all(scopes.split(',').map(scope => fastify.streamRegistry.count(scope)))
  // One of the sockets is that of this request.
  const sockets = await new Promise(resolve => fastify.server.getConnections((_error, count) => resolve(count - 1)))
  return { size: fastify.streamRegistry.size, listed: [...fastify.streamRegistry].length, count: counts.reduce((a, b) => a + b), sockets, listeners: bus.listenerCount('news'), sent: sent.size }
})

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc')
const delay = monitorEventLoopDelay({ resolution: 10 })
delay.enable()
const sampling = setInterval(() => {
  const [p99, max] = [delay.percentile(99) / 1e6, delay.max / 1e6]
  gc()
  const { rss, heapUsed } = process.memoryUsage()
  // Timers that keep the process alive.
  const timers = process.getActiveResourcesInfo().filter(name => name === 'Timeout').length
  say({ event: 'sample', rss, heapUsed, p99, max, live: fastify.streamRegistry.size, timers })
  // Leaves out the collection above.
  setImmediate(() => delay.reset())
}, SAMPLE_MS)
for (const event of ['online', 'offline']) diagnostics.subscribe(`octa-star:scope:${event}`, ({ scopeKey }) => say({ event, scope: scopeKey }))
diagnostics.subscribe('octa-star:cluster', ({ state }) => say({ event: state, held: delay.max / 1e6 }))

const stopSending = startSending({ registry: fastify.streamRegistry, sender: SENDER, random: derive(Number(SEED), SENDER), say, lateness })
process.once('SIGTERM', async () => {
  clearInterval(broadcasting)
  stopSending()
  clearInterval(sampling)
  delay.disable()
  await fastify.close()
  redis?.disconnect()
})

await fastify.listen({ port: Number(PORT), host: '127.0.0.1' })
say({ event: 'listening', port: fastify.server.address().port })
