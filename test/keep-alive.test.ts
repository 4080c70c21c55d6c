// HTTP/1.1 keep-alive and pipelining: after a stream's clean end its socket is as good as new, and belongs to no stream.
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

// One socket for one request after another, as a browser keeps it.
function oneSocket (t: Test): http.Agent {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  return agent
}

async function until (condition: () => boolean): Promise<void> {
  while (!condition()) await turn()
}

for (const reason of ['finished', 'replaced', 'evicted'] as const) {
  t.test(`${reason}: the next request on the socket works, and what becomes of the old key does not touch it`, async t => {
    const { app, streams } = await listen(t)
    const { streamRegistry } = app.fastify
    const [oldSocket, newSocket] = [oneSocket(t), oneSocket(t)]
    const old = await connect(app.url(path), { agent: oldSocket })
    if (reason === 'finished') streams[0]!.close()
    if (reason === 'evicted') await streamRegistry.evict('ann')
    const successor = await connect(app.url(path), { agent: newSocket })
    t.equal(await old.ended, 'clean')
    t.equal(await streams[0]!.gone, reason)

    // The next on the old socket is a stream of another tab: whatever ends the old key must leave it alone.
    const next = await connect(app.url(withSignals('/stream/ann', { tabId: 'another' })), { agent: oldSocket })
    t.equal(next.socket, old.socket)
    streams[0]!.close('failed')
    streams[0]!.destroy!()
    await streamRegistry.evict('ann', 'a')
    t.equal(await successor.ended, 'clean')
    await streams[2]!.send('unharmed')
    t.match(await next.event(1), { data: 'unharmed' })

    const plain = await connect(app.url('/plain'), { agent: newSocket })
    t.equal(plain.socket, successor.socket, 'the successor\'s socket is as good as new too')
    await plain.ended
    t.equal(plain.text, 'plain')
    t.strictSame([...streamRegistry], [streams[2]], 'a plain request holds nothing')
    streams[2]!.close()
    t.equal(await next.ended, 'clean')
  })
}

interface Pipe {
  socket: Socket
  /** Sends requests in one packet, and does not wait for responses: those queue up behind each other. */
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

t.test('pipelined behind a stream: the next stream of the same tab ends it, and follows on the same socket', async t => {
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

t.test('pipelined in one packet, two starts of one tab race: the newer wins, and the older ends with the farewell', async t => {
  const { app, streams } = await listen(t)
  const { ask, text } = await pipeline(t, app)
  ask(path, path)
  await until(() => text().split('text/event-stream').length === 3)
  t.match(text(), /^HTTP\/1.1 200 [^]*octa-star-closed:replaced[^]*\r\n0\r\n\r\nHTTP\/1.1 200 /)
  t.strictSame(streams.map(({ signal }) => signal.aborted), [true, false])
})

t.test('pipelined behind a stream: one that ends before its turn does not disturb the one before it', async t => {
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

t.test('pipelined behind a stream: when the client leaves, those that wait for their turn end as well', async t => {
  // Node emits no `close` of a response that has no socket yet: such a stream went on for ever, and anybody could make a thousand.
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

t.test('pipelined behind a stream: a plain request may take longer than the stream\'s stallTimeout', async t => {
  // The timeout stayed on the socket: Node takes it off for a request that comes later, not for one that has come already.
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

t.test('pipelined behind a stream: one that breaks off before its turn breaks the connection off when it is its turn', async t => {
  // Under Node 24 it got its head, and then nothing for ever.
  const { app, streams } = await listen(t)
  const { socket, ask, text } = await pipeline(t, app)
  ask(path, withSignals('/stream/ann', { tabId: 'b' }))
  await until(() => streams.length === 2)
  streams[1]!.close('failed')
  const closed = once(socket, 'close')
  streams[0]!.close()
  await closed
  t.match(text(), /\r\n0\r\n\r\n/, 'the first ended cleanly')
})
