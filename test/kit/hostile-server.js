// The server on the build that the attacks go to, with a route of each kind. A second port reports the state of the server.
import { once } from 'node:events'
import http from 'node:http'
import { parse } from 'node:querystring'
import { setFlagsFromString, queryObjects } from 'node:v8'
import { runInNewContext } from 'node:vm'
import Fastify from 'fastify'
import octaStarStreams from 'octa-star-streams'
import { readSignals } from 'octa-star-streams/datastar'
import { StreamResponse } from '../../dist/lib/http/response.js'
import { Claim } from '../../dist/lib/registry/claim.js'
import { LiveStream } from '../../dist/lib/stream/stream.js'

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc')

const { OPTIONS = '{}', SERVER = '{}', HEARTBEAT = '0' } = process.env
// The state that the tests ask for: log lines from `warn` up, errors that nothing caught, and the number of responses by status.
const log = []
const escaped = []
const statuses = {}
const reasons = {}
let most = 0
for (const event of ['unhandledRejection', 'uncaughtException', 'warning']) {
  // `v8.queryObjects`, called below, emits an ExperimentalWarning.
  process.on(event, error => { if (error?.name !== 'ExperimentalWarning') escaped.push(`${event}: ${error?.stack ?? error}`) })
}

const fastify = Fastify({
  logger: { level: 'warn', stream: { write: line => { log.push(JSON.parse(line)) } } },
  forceCloseConnections: true,
  ...JSON.parse(SERVER)
})
fastify.addContentTypeParser('application/x-www-form-urlencoded', { parseAs: 'string' }, async (_request, body) => parse(body))
fastify.addHook('onResponse', async (_request, reply) => { statuses[reply.statusCode] = (statuses[reply.statusCode] ?? 0) + 1 })
await fastify.register(octaStarStreams, { closeGrace: 200, ...JSON.parse(OPTIONS) })

const all = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE']
const route = (url, options, handler) => fastify.route({ method: all, url, handler, ...options })

async function start (request, reply, options) {
  const stream = await reply.startStream(request.params.scope, options)
  most = Math.max(most, fastify.streamRegistry.size)
  stream.onClose(reason => {
    reasons[reason] = (reasons[reason] ?? 0) + 1
    // An application sends like this if an event arrives before the handler has unsubscribed. Nobody awaits the promise.
    stream.send('too late')
  })
  return stream
}

route('/only/:scope', { sse: 'only' }, async (request, reply) => {
  const stream = await start(request, reply)
  await stream.send({ event: 'hello', id: '1', data: stream.tabId })
  stream.keepAlive()
})
route('/dual/:scope', { sse: 'dual' }, async (request, reply) => {
  if (reply.sse === undefined) return { signals: Object.keys(readSignals(request)).length }
  const stream = await start(request, reply)
  // The stream may have been replaced before this line runs.
  if (!stream.signal.aborted) await once(stream.signal, 'abort')
})
route('/true/:scope', { sse: true }, async (request, reply) => {
  const stream = await start(request, reply)
  stream.onReplaced(() => stream.send('a last word'))
  await stream.send({ data: readSignals(request) })
})
route('/manual/:scope', { sse: 'manual' }, async (request, reply) => {
  if (request.query.stream === undefined) return readSignals(request)
  const stream = await start(request, reply, { name: 'manual' })
  await stream.closed
})
const properties = { term: { type: 'string', maxLength: 8 } }
route('/schema/:scope', { sse: 'only', method: ['POST', 'PUT', 'PATCH', 'DELETE'], schema: { body: { type: 'object', properties } } }, async (request, reply) => {
  const stream = await start(request, reply, { name: 'schema' })
  stream.keepAlive()
})
// Sends as fast as the client reads, without an end.
route('/flood/:scope', { sse: 'only' }, async (request, reply) => {
  const stream = await start(request, reply)
  for (;;) await stream.send('x'.repeat(65_536))
})

let beats = 0
if (HEARTBEAT !== '0') {
  setInterval(() => {
    beats++
    for (const stream of fastify.streamRegistry) if (stream.scopeKey === 'bystander') stream.send({ event: 'beat', data: beats })
  }, Number(HEARTBEAT))
}

async function state () {
  const connections = await new Promise(resolve => fastify.server.getConnections((_error, count) => resolve(count)))
  gc()
  const count = type => queryObjects(type, { format: 'count' })
  return {
    size: fastify.streamRegistry.size,
    connections,
    objects: { streams: count(LiveStream), responses: count(StreamResponse), claims: count(Claim) },
    log,
    escaped,
    statuses,
    reasons,
    most,
    beats,
    heap: process.memoryUsage().heapUsed,
    rss: process.memoryUsage().rss
  }
}
const admin = http.createServer(async (request, response) => {
  if (request.url !== '/state') return response.end(String(await fastify.streamRegistry.count(decodeURIComponent(request.url.slice(1)))))
  response.end(JSON.stringify(await state()))
})
admin.listen(0, '127.0.0.1')
await fastify.listen({ port: 0, host: '127.0.0.1', backlog: 8_192 })
process.once('SIGTERM', async () => {
  admin.close()
  admin.closeAllConnections()
  await fastify.close()
  process.exit()
})
console.log(JSON.stringify({ port: fastify.server.address().port, admin: admin.address().port }))
