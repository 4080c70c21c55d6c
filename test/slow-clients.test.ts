// Clients that do not read: the data that waits for these clients is bounded, and the remaining clients miss nothing.
import { EventEmitter, once } from 'node:events'
import type { Server } from 'node:http'
import http2 from 'node:http2'
import net, { type AddressInfo, type Socket } from 'node:net'
import { setImmediate as turn, setTimeout as pause } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import octaStarStreams, { type OctaStarStreamsOptions, type Stream } from '../lib/index.ts'
import { buildApp, streamRoute, withSignals } from './kit/app.ts'
import { connect } from './kit/client.ts'
import { openStream } from './kit/fake-stream.ts'
import { FLOOD } from './kit/flood.ts'

t.test('a send past maxBufferedBytes ends the stream as stalled, and rejects', async t => {
  const { stream, response } = await openStream({ maxBufferedBytes: 1_000 })
  response.frozen = true
  const waiting = [stream.send('x'.repeat(600)), stream.send('x'.repeat(600))]
  t.notOk(stream.closing, 'the limit is checked before a new event is queued')
  waiting.push(stream.send('one too many'))
  for (const sent of waiting) await t.rejects(sent, { name: 'AbortError', message: /has ended: stalled/ })
  t.ok(response.destroyed)
  t.notOk(response.written.includes('one too many'))
  t.equal(await stream.closed, 'stalled')
})

t.test('an event that is larger than maxBufferedBytes is sent to a client that reads', async t => {
  const { stream, response } = await openStream({ maxBufferedBytes: 1_000 })
  await stream.send('x'.repeat(5_000))
  response.frozen = true
  const waiting = stream.send('x'.repeat(5_000))
  response.thaw()
  await waiting
  await stream.send('and goes on')
  t.notOk(stream.closing)
})

t.test('with maxBufferedBytes at Infinity nothing is bounded', async t => {
  const { stream, response } = await openStream({ maxBufferedBytes: Infinity })
  response.frozen = true
  for (let i = 0; i < 10; i++) stream.send('x'.repeat(1_000_000))
  t.notOk(stream.closing)
})

t.test('a client that takes nothing for stallTimeout ends as stalled, and a client that takes data slowly, or has no data to take, goes on', async t => {
  // Far longer than the pauses of the slow client, even on a busy machine.
  const stallTimeout = 1_500
  const app = await buildApp(t, { stallTimeout, maxBufferedBytes: Infinity })
  const streams = streamRoute(app)
  await app.listen()
  const open = (tabId: string) => rawClient(t, app.port(), withSignals('/stream/ann', { tabId }))

  await open('idle')
  const slow = await open('slow')
  const deaf = await open('deaf')
  deaf.pause()
  const [idleStream, slowStream, deafStream] = streams as [Stream, Stream, Stream]
  deafStream.send(FLOOD).catch(() => {})
  const sent = slowStream.send(FLOOD)

  // The slow client takes a part at each turn, far more often than stallTimeout, and for far longer in total.
  let taken = 0
  slow.on('data', data => {
    taken += data.length
    slow.pause()
    setTimeout(() => slow.resume(), data.length / FLOOD.length * 3 * stallTimeout)
  })
  const start = performance.now()
  t.equal(await deafStream.closed, 'stalled')
  await sent
  t.ok(performance.now() - start > 2 * stallTimeout, 'the slow client took longer than stallTimeout')
  t.ok(taken > 0)
  t.strictSame([idleStream.closing, slowStream.closing], [false, false])
})

/** The calls of `setKeepAlive` on each socket that `server` accepts, and the socket. Emits `call` after each call. */
function watchProbing (server: Server) {
  const probing = Object.assign(new EventEmitter(), { calls: [] as unknown[], socket: undefined as Socket | undefined })
  server.on('connection', (socket: Socket) => {
    probing.socket = socket
    const { setKeepAlive } = socket
    socket.setKeepAlive = function (...args) {
      probing.calls.push(args)
      setImmediate(() => probing.emit('call'))
      return setKeepAlive.apply(this, args)
    }
  })
  return probing
}

t.test('the socket of a stream whose client keeps up has no timeout, and the server emits no timeout', async t => {
  const app = await buildApp(t, { stallTimeout: 50 })
  const streams = streamRoute(app)
  const probing = watchProbing(app.fastify.server)
  app.fastify.server.on('timeout', () => t.fail('a quiet stream timed out'))
  await app.listen()
  const client = await rawClient(t, app.port(), '/stream/ann')
  while (probing.calls.length === 0) await once(probing, 'call')
  t.notOk(probing.socket!.timeout)
  await pause(200)
  streams[0]!.send('news')
  await once(client, 'data')
  t.notOk(streams[0]!.closing)
})

t.test('after a stream that was slow, the keep-alive socket has the timeout of the server again', async t => {
  const app = await buildApp(t, { stallTimeout: 20_000, deadPeerProbe: 7_000 })
  const streams = streamRoute(app)
  app.fastify.get('/other', async () => 'other')
  const probing = watchProbing(app.fastify.server)
  await app.listen()
  const client = await rawClient(t, app.port(), '/stream/ann')
  client.pause()
  const sent = streams[0]!.send(FLOOD)
  const { calls } = probing
  const socket = probing.socket!
  t.equal(socket.timeout, 20_000)
  t.strictSame(calls, [[true, 7_000]])
  client.resume()
  await sent
  streams[0]!.close()
  await streams[0]!.closed
  t.strictSame(calls.slice(1), [[false, 0]], 'the kernel no longer probes')
  // Node adds a second to the timeout.
  t.ok(socket.timeout! >= app.fastify.server.keepAliveTimeout)
  client.write('GET /other HTTP/1.1\r\nhost: a\r\n\r\n')
  let text = ''
  while (!text.endsWith('other')) text = text.slice(-100) + String((await once(client, 'data'))[0])
  t.equal(calls.length, 2, 'a request that is not a stream is not affected')
  t.notOk(socket.destroyed)
})

t.test('a server that always probes its connections still probes after a stream', async t => {
  const app = await buildApp(t, { fastify: { http: { keepAlive: true, keepAliveInitialDelay: 60_000 } } as object })
  const streams = streamRoute(app)
  const probing = watchProbing(app.fastify.server)
  await app.listen()
  await rawClient(t, app.port(), '/stream/ann')
  await once(probing, 'call')
  streams[0]!.close()
  await streams[0]!.closed
  t.strictSame(probing.calls, [[true, 10_000], [true, 60_000]])
})

t.test('a stream that ends within a second does not change its socket, not even later', async t => {
  const app = await buildApp(t)
  const streams = streamRoute(app)
  const probing = watchProbing(app.fastify.server)
  await app.listen()
  await rawClient(t, app.port(), '/stream/ann?datastar=' + encodeURIComponent('{"tabId":"short"}'))
  const short = probing.socket!
  streams[0]!.close()
  await streams[0]!.closed
  t.strictSame(probing.calls, [])
  // A stream that opened later is watched, so the time of the first stream has passed.
  await rawClient(t, app.port(), '/stream/ann?datastar=' + encodeURIComponent('{"tabId":"long"}'))
  await once(probing, 'call')
  t.not(probing.socket, short)
  t.strictSame(probing.calls, [[true, 10_000]])
})

t.test('with stallTimeout a server that times out idle sockets in less than a second does not time out a stream', async t => {
  const app = await buildApp(t, { stallTimeout: 5_000, fastify: { connectionTimeout: 100 } })
  const streams = streamRoute(app)
  const probing = watchProbing(app.fastify.server)
  await app.listen()
  await rawClient(t, app.port(), '/stream/ann')
  t.equal(probing.socket!.timeout, 5_000)
  t.notOk(streams[0]!.closing)
})

t.test('over HTTP/2 only the stream that stalls ends, beside a busy neighbour in its session', async t => {
  const { session, streams } = await http2Session(t, { stallTimeout: 300 })
  const open = async (tabId: string) => {
    const stream = session.request({ ':path': withSignals('/stream', { tabId }), accept: 'text/event-stream' })
    stream.on('error', () => {})
    await once(stream, 'response')
    return stream
  }
  const busy = await open('busy')
  const deaf = await open('deaf')
  deaf.pause()
  busy.resume()
  const [busyStream, deafStream] = streams as [Stream, Stream]
  const chatter = setInterval(() => busyStream.send('news'), 20)
  t.teardown(() => clearInterval(chatter))
  deafStream.send('x'.repeat(500_000)).catch(() => {})
  t.equal(await deafStream.closed, 'stalled')
  for (let i = 0; i < 5; i++) await once(busy, 'data')
  t.notOk(busyStream.closing)
})

t.test('over HTTP/2 a client that reads slowly goes on, however long one event takes', async t => {
  const stallTimeout = 1_500
  const { session, streams } = await http2Session(t, { stallTimeout })
  const slow = session.request({ ':path': '/stream', accept: 'text/event-stream' })
  slow.on('error', () => {})
  await once(slow, 'response')
  const event = 'x'.repeat(500_000)
  const start = performance.now()
  const sent = streams[0]!.send(event)
  slow.on('data', data => {
    slow.pause()
    setTimeout(() => slow.resume(), data.length / event.length * 3 * stallTimeout)
  })
  await sent
  t.ok(performance.now() - start > 1.5 * stallTimeout, 'the event took longer than stallTimeout')
  t.notOk(streams[0]!.closing)
})

for (const stallTimeout of [30_000, Infinity]) {
  t.test(`over HTTP/2 a large event arrives unchanged, with a stallTimeout of ${stallTimeout}`, async t => {
    const { session, streams } = await http2Session(t, { stallTimeout })
    const client = session.request({ ':path': '/stream', accept: 'text/event-stream' })
    await once(client, 'response')
    client.setEncoding('utf8')
    let text = ''
    client.on('data', part => { text += part })
    // Characters of two, three and four bytes, at every place in a piece.
    const large = Array.from({ length: 20_000 }, (_, i) => `é€😀${i}`).join(' ')
    await streams[0]!.send({ event: 'large', data: large })
    await streams[0]!.send('small')
    while (!text.endsWith('data: small\n\n')) await once(client, 'data')
    t.equal(text, `\nevent: large\ndata: ${large}\n\ndata: small\n\n`)
  })
}

t.test('a client that reads nothing ends as stalled, however little waits for the client, and no heartbeat is queued behind', async t => {
  const app = await buildApp(t, { stallTimeout: 300, sse: { heartbeatInterval: 10 } })
  const streams = streamRoute(app)
  const probing = watchProbing(app.fastify.server)
  await app.listen()
  const client = await rawClient(t, app.port(), '/stream/ann')
  client.pause()
  const stream = streams[0]!
  const socket = probing.socket!
  // Until the buffers of the kernel are full.
  while (socket.writableLength === 0) {
    await stream.send('x'.repeat(4_000))
    await pause(1)
  }
  let most = 0
  const watching = setInterval(() => { most = Math.max(most, socket.writableLength) }, 1)
  t.equal(await stream.closed, 'stalled')
  clearInterval(watching)
  t.ok(most < socket.writableHighWaterMark, `${most} bytes`)
})

t.test('over HTTP/2 a client that reads nothing ends as stalled, however little waits for the client', async t => {
  const { session, streams } = await http2Session(t, { stallTimeout: 300, sse: { heartbeatInterval: 10 } }, { initialWindowSize: 0 })
  const client = session.request({ ':path': '/stream', accept: 'text/event-stream' })
  client.on('error', () => {})
  await once(client, 'response')
  await streams[0]!.send('news')
  t.equal(await streams[0]!.closed, 'stalled')
})

t.test('over HTTP/2 a client that reads each event at once does not end as stalled', async t => {
  const { session, streams } = await http2Session(t, { stallTimeout: 200 })
  const client = session.request({ ':path': '/stream', accept: 'text/event-stream' })
  await once(client, 'response')
  client.resume()
  for (let i = 0; i < 50; i++) {
    streams[0]!.send('news')
    await pause(20)
  }
  t.notOk(streams[0]!.closing)
})

t.test('over HTTP/2 a standstill of the process does not pass for a client that reads nothing', async t => {
  const stallTimeout = 300
  const { session, streams, port } = await http2Session(t, { stallTimeout })
  session.destroy()
  // The client reads while this thread stands still.
  const client = new Worker(`
    const session = require('node:http2').connect('http://127.0.0.1:${port}')
    session.on('error', () => {})
    let read = 0
    session.request({ ':path': '/stream', accept: 'text/event-stream' }).on('error', () => {}).on('data', data => {
      read += data.length
      if (read > 500_000) require('node:worker_threads').parentPort.postMessage('read')
    })
  `, { eval: true })
  t.teardown(() => client.terminate())
  while (streams.length === 0) await pause(1)
  const sent = streams[0]!.send('x'.repeat(500_000))
  // Behind `setImmediate` the event loop runs due timers before it reads.
  await turn()
  const until = performance.now() + 2 * stallTimeout
  while (performance.now() < until);
  await sent
  await once(client, 'message')
  t.notOk(streams[0]!.closing)
})

t.test('if 500 clients stop reading while 10 MB are sent to each, memory stays bounded, and other clients miss nothing', async t => {
  const CLIENTS = 500
  const HEALTHY = 20
  const EVENTS = 160
  const EVENT = 'x'.repeat(64 * 1024)
  // All data that may wait, one event beyond the limit, Node's memory for a response, and room for the garbage of the run.
  const BOUND = CLIENTS * (1.25 * 1024 * 1024) + 150 * 1024 * 1024
  const app = await buildApp(t, { logLevel: 'info' })
  const streams = streamRoute(app)
  await app.listen()

  const deaf = await Promise.all(Array.from({ length: CLIENTS }, async (_, i) => {
    const client = await rawClient(t, app.port(), withSignals('/stream/deaf', { tabId: String(i) }))
    client.pause()
    return client
  }))
  const healthy = await Promise.all(Array.from({ length: HEALTHY }, (_, i) => connect(app.url(withSignals('/stream/healthy', { tabId: String(i) })))))
  const before = process.memoryUsage().rss
  let most = 0
  // A broadcaster that never waits for a client.
  for (let n = 0; n < EVENTS; n++) {
    for (const stream of streams) stream.send({ id: String(n), data: stream.scopeKey === 'deaf' ? EVENT : 'news' })
    most = Math.max(most, process.memoryUsage().rss - before)
    await pause(1)
  }
  t.ok(most < BOUND, `${Math.round(most / 1024 / 1024)} MiB of ${Math.round(BOUND / 1024 / 1024)}`)
  t.strictSame(new Set(await Promise.all(streams.filter(({ scopeKey }) => scopeKey === 'deaf').map(({ closed }) => closed))), new Set(['stalled']))
  for (const client of healthy) {
    await client.event(EVENTS)
    t.strictSame(client.events.map(({ id }) => id), Array.from({ length: EVENTS }, (_, n) => String(n)))
  }
  t.equal(app.fastify.streamRegistry.size, HEALTHY)
  for (const client of deaf) client.destroy()
})

/** A socket on which the head of a response has come. From then on only the test reads the socket. */
async function rawClient (t: Test, port: number, path: string): Promise<Socket> {
  const socket = net.connect(port, '127.0.0.1')
  socket.on('error', () => {})
  t.teardown(() => socket.destroy())
  socket.write(`GET ${path} HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\n\r\n`)
  let head = ''
  while (!head.includes('\r\n\r\n')) head += String((await once(socket, 'data'))[0])
  return socket
}

async function http2Session (t: Test, options: OctaStarStreamsOptions, settings: http2.Settings = {}) {
  const fastify = Fastify({ http2: true }) as unknown as FastifyInstance
  await fastify.register(octaStarStreams, options)
  const streams: Stream[] = []
  fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    const stream = await reply.startStream('ann')
    streams.push(stream)
    stream.keepAlive()
  })
  await fastify.listen({ port: 0, host: '127.0.0.1' })
  const session = http2.connect(fastify.listeningOrigin, { settings })
  t.teardown(async () => {
    session.destroy()
    await fastify.close()
  })
  return { session, streams, port: (fastify.server.address() as AddressInfo).port }
}
