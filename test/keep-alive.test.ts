// HTTP/1.1 keep-alive and pipelining: after a stream's clean end the socket can be reused, and belongs to no stream.
import http from 'node:http'
import net, { type Socket } from 'node:net'
import { once } from 'node:events'
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { Stream } from '../lib/index.ts'
import { buildApp, streamRoute, withSignals, type App } from './kit/app.ts'
import { connect } from './kit/client.ts'

const path = withSignals('/stream/ann', { tabId: 'a' })

async function listen (t: Test): Promise<{ app: App, streams: Stream[] }> {
  const app = await buildApp(t, { closeGrace: 200 })
  app.fastify.get('/plain', async () => 'plain')
  const streams = streamRoute(app)
  await app.listen()
  return { app, streams }
}

// Uses one socket for all requests, one after another, as a browser does.
function oneSocket (t: Test): http.Agent {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  return agent
}

async function until (condition: () => boolean): Promise<void> {
  while (!condition()) await turn()
}

for (const reason of ['finished', 'replaced', 'evicted'] as const) {
  t.test(`${reason}: the next request on the socket works, and is not disturbed when the old key is used again`, async t => {
    const { app, streams } = await listen(t)
    const { streamRegistry } = app.fastify
    const [oldSocket, newSocket] = [oneSocket(t), oneSocket(t)]
    const old = await connect(app.url(path), { agent: oldSocket })
    if (reason === 'finished') streams[0]!.close()
    if (reason === 'evicted') await streamRegistry.evict('ann')
    const successor = await connect(app.url(path), { agent: newSocket })
    t.equal(await old.ended, 'clean')
    t.equal(await streams[0]!.gone, reason)

    // The next request on the old socket is a stream of another tab. Nothing that ends the old key may end this stream.
    const next = await connect(app.url(withSignals('/stream/ann', { tabId: 'another' })), { agent: oldSocket })
    t.equal(next.socket, old.socket)
    streams[0]!.close('failed')
    streams[0]!.destroy!()
    await streamRegistry.evict('ann', 'a')
    t.equal(await successor.ended, 'clean')
    await streams[2]!.send('unharmed')
    t.match(await next.event(1), { data: 'unharmed' })

    const plain = await connect(app.url('/plain'), { agent: newSocket })
    t.equal(plain.socket, successor.socket, 'the successor\'s socket can be reused too')
    await plain.ended
    t.equal(plain.text, 'plain')
    t.strictSame([...streamRegistry], [streams[2]], 'a plain request holds nothing')
    streams[2]!.close()
    t.equal(await next.ended, 'clean')
  })
}

interface Pipe {
  socket: Socket
  /** Sends requests in a single packet, and does not wait for responses. The responses queue up in order. */
  ask: (...paths: string[]) => void
  text: () => string
}

async function pipeline (t: Test, app: App): Promise<Pipe> {
  let text = ''
  const socket = net.connect(app.port(), '127.0.0.1').setEncoding('utf8').on('data', data => { text += data }).on('error', () => {})
  t.teardown(() => socket.destroy())
  await once(socket, 'connect')
  const ask = (...paths: string[]) => { socket.write(paths.map(path => `GET ${path} HTTP/1.1\r\nhost: localhost\r\n\r\n`).join('')) }
  return { socket, ask, text: () => text }
}

t.test('pipelined behind a stream: a plain request is answered when the stream has ended', async t => {
  const { app, streams } = await listen(t)
  const { ask, text } = await pipeline(t, app)
  ask(path, '/plain')
  await until(() => streams.length === 1)
  streams[0]!.send('an event')
  await until(() => text().includes('an event'))
  t.notMatch(text(), /plain/)
  await app.fastify.streamRegistry.evict('ann')
  await until(() => text().endsWith('plain'))
  t.match(text(), /^HTTP\/1.1 200 [^]*octa-star-closed:evicted[^]*\r\n0\r\n\r\nHTTP\/1.1 200 [^]*plain$/)
})

t.test('pipelined behind a stream, the next stream of the same tab ends the first stream, and follows on the same socket', async t => {
  const { app, streams } = await listen(t)
  const { ask, text } = await pipeline(t, app)
  ask(path)
  await until(() => streams.length === 1)
  ask(path)
  t.equal(await streams[0]!.gone, 'replaced')
  await until(() => streams.length === 2)
  streams[1]!.send('the second')
  await until(() => text().includes('the second'))
  t.match(text(), /octa-star-closed:replaced[^]*\r\n0\r\n\r\nHTTP\/1.1 200 [^]*the second/)
  t.strictSame([...app.fastify.streamRegistry], [streams[1]])
})

t.test('of two starts of one tab that are pipelined in one packet, the newer start wins, and the older stream ends with the farewell', async t => {
  const { app, streams } = await listen(t)
  const { ask, text } = await pipeline(t, app)
  ask(path, path)
  await until(() => text().split('text/event-stream').length === 3)
  t.match(text(), /^HTTP\/1.1 200 [^]*octa-star-closed:replaced[^]*\r\n0\r\n\r\nHTTP\/1.1 200 /)
  t.strictSame(streams.map(({ signal }) => signal.aborted), [true, false])
})

t.test('pipelined behind a stream, a stream that ends before its turn does not disturb the first stream', async t => {
  const { app, streams } = await listen(t)
  const { ask, text } = await pipeline(t, app)
  ask(...['a', 'b', 'c'].map(tabId => withSignals('/stream/ann', { tabId })))
  await until(() => streams.length === 3)
  streams[1]!.close('failed')
  await app.fastify.streamRegistry.evict('ann', 'c')
  t.equal(await streams[1]!.gone, 'failed')
  t.equal(await streams[2]!.gone, 'evicted')
  streams[0]!.send('unharmed')
  await until(() => text().includes('unharmed'))
  streams[0]!.close()
  await until(() => text().includes('\r\n0\r\n\r\n'))
  t.equal(await streams[0]!.gone, 'finished')
})

t.test('pipelined behind a stream, streams that wait for their turn end when the client disconnects', async t => {
  // Node emits no `close` for a response that does not have a socket yet. A pipelined stream never ended, so a client could leave a thousand behind.
  const { app, streams } = await listen(t)
  const { socket, ask } = await pipeline(t, app)
  ask(...Array.from({ length: 20 }, (_, i) => withSignals('/stream/ann', { tabId: `tab ${i}` })))
  await until(() => streams.length === 20)
  socket.destroy()
  t.equal(await streams[0]!.gone, 'disconnected')
  for (let i = 0; i < 20; i++) await turn()
  t.strictSame(streams.map(stream => stream.closing), Array(20).fill(true))
  for (const stream of streams) stream.close('stalled')
})

t.test('pipelined behind a stream, a plain request may take longer than the stream\'s stallTimeout', async t => {
  // The timeout stayed on the socket. Node removes the timeout for a later request, but not for a request that has already come.
  const app = await buildApp(t, { stallTimeout: 100 })
  const streams = streamRoute(app)
  app.fastify.get('/slow', async () => {
    await sleep(400)
    return 'unharmed'
  })
  await app.listen()
  const { socket, ask, text } = await pipeline(t, app)
  ask(path, '/slow')
  await until(() => streams.length === 1)
  streams[0]!.close()
  await until(() => text().endsWith('unharmed') || socket.destroyed)
  t.match(text(), /unharmed$/)
})

t.test('pipelined behind a stream, a stream that breaks off before its turn breaks the connection off at its turn', async t => {
  // With Node 24 the client got the head of this stream, and then nothing.
  const { app, streams } = await listen(t)
  const { socket, ask, text } = await pipeline(t, app)
  ask(path, withSignals('/stream/ann', { tabId: 'b' }))
  await until(() => streams.length === 2)
  streams[1]!.close('failed')
  const closed = once(socket, 'close')
  streams[0]!.close()
  await closed
  t.match(text(), /\r\n0\r\n\r\n/, 'the first stream ended cleanly')
})

t.test('a client that asks for the end of the connection gets the end behind a stream', async t => {
  const { app, streams } = await listen(t)
  const socket = net.connect(app.port(), '127.0.0.1')
  let text = ''
  socket.setEncoding('latin1').on('data', data => { text += data })
  socket.write(`GET ${path} HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\nconnection: close\r\n\r\n`)
  await until(() => streams.length === 1)
  streams[0]!.close()
  await once(socket, 'end')
  t.match(text, /^connection: close\r$/mi)
})

t.test('the last request that maxRequestsPerSocket allows on a connection ends the connection behind its stream, so no further request is answered 503', async t => {
  const { app, streams } = await listen(t)
  app.fastify.server.maxRequestsPerSocket = 2
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  const heads: unknown[] = []
  for (let i = 0; i < 4; i++) {
    const client = await connect(app.url(path), { agent })
    heads.push([client.status, client.headers.connection])
    streams.at(-1)!.close()
    await client.ended
  }
  t.strictSame(heads, [[200, 'keep-alive'], [200, 'close'], [200, 'keep-alive'], [200, 'close']])
})
