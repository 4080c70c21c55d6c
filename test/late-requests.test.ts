// Rule 2: a request whose client has already disconnected never replaces a live stream, and a start that ends no stream does not wait.
import { once } from 'node:events'
import { constants } from 'node:http2'
import net from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { Stream } from '../lib/index.ts'
import { buildApp, withSignals, type App, type AppOptions } from './kit/app.ts'
import { connect } from './kit/client.ts'
import { http2App, openIn, received, transportOptions } from './kit/http2.ts'

const path = withSignals('/stream/ann', { tabId: 'a' })
const latePath = withSignals('/late', { tabId: 'a' })

// Adds a route for the live stream and a route for the late request. The returned promise resolves to the result of startStream
// for the late request.
function addRoutes ({ fastify }: App): Promise<string> {
  fastify.get<{ Params: { scope: string } }>('/stream/:scope', { sse: 'only' }, async (request, reply) => {
    const stream = await reply.startStream(request.params.scope)
    await stream.send('hello')
    stream.keepAlive()
  })
  return new Promise(resolve => {
    fastify.get('/late', { sse: 'only' }, async (_request, reply) => {
      await reply.startStream('ann').then(() => resolve('opened'), error => resolve(error.reason))
    })
  })
}

// An onRequest hook that takes several turns of the event loop, like a look-up of the session.
function addSlowHook ({ fastify }: App): void {
  fastify.addHook('onRequest', async () => { for (let i = 0; i < 10; i++) await turn() })
}

/** Writes a request and disconnects at once, so that the server finds both in the same turn of the event loop. */
async function requestAndLeave (t: Test, port: number, how: 'FIN' | 'RST'): Promise<void> {
  const socket = net.connect(port, '127.0.0.1')
  socket.on('error', () => {})
  t.teardown(() => socket.destroy())
  await once(socket, 'connect')
  socket.write(`GET ${latePath} HTTP/1.1\r\nhost: test\r\naccept: text/event-stream\r\n\r\n`)
  if (how === 'FIN') socket.destroy()
  else socket.resetAndDestroy()
}

// Node's client does not send a request that is reset at once. So these are the frames of a connection preface, SETTINGS, HEADERS
// and RST_STREAM, see https://www.rfc-editor.org/rfc/rfc9113.html#section-4
function requestAndReset (): Buffer {
  const frame = (type: number, flags: number, stream: number, payload: Buffer) => {
    const head = Buffer.alloc(9)
    head.writeUIntBE(payload.length, 0, 3)
    head.writeUInt8(type, 3)
    head.writeUInt8(flags, 4)
    head.writeUInt32BE(stream, 5)
    return Buffer.concat([head, payload])
  }
  const field = (name: string, value: string) => Buffer.concat([Buffer.of(0, name.length), Buffer.from(name), Buffer.of(value.length), Buffer.from(value)])
  const fields = { ':method': 'GET', ':scheme': 'http', ':authority': 'test', ':path': latePath, accept: 'text/event-stream' }
  const headers = Buffer.concat(Object.entries(fields).map(([name, value]) => field(name, value)))
  const END_STREAM_AND_HEADERS = 0x5
  return Buffer.concat([
    Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
    frame(4, 0, 0, Buffer.alloc(0)),
    frame(1, END_STREAM_AND_HEADERS, 1, headers),
    frame(3, 0, 1, Buffer.of(0, 0, 0, constants.NGHTTP2_CANCEL))
  ])
}

for (const isSlow of [false, true]) {
  const behind = isSlow ? ', behind an asynchronous onRequest hook' : ''

  for (const how of ['FIN', 'RST'] as const) {
    t.test(`a late request with a ${how} right behind it replaces nobody${behind}`, async t => {
      const app = await buildApp(t)
      if (isSlow) addSlowHook(app)
      const outcome = addRoutes(app)
      await app.listen()
      const live = await connect(app.url(path))
      await live.event(1)
      await requestAndLeave(t, app.port(), how)
      t.equal(await outcome, 'disconnected')
      t.equal(app.fastify.streamRegistry.size, 1)
      await (app.fastify.streamRegistry.get('ann', 'a') as Stream).send('still here')
      t.match(await live.event(2), { event: 'message', data: 'still here' })
      live.leave()
    })
  }

  t.test(`over HTTP/2, a late request with a RST_STREAM right behind it replaces nobody${behind}`, transportOptions('in the clear'), async t => {
    const app = await http2App(t, 'in the clear')
    if (isSlow) addSlowHook(app)
    const outcome = addRoutes(app)
    await app.listen()
    const session = app.session()
    const live = await openIn(session, 'a')
    await received(live, 'hello')
    const socket = net.connect(app.port(), '127.0.0.1')
    t.teardown(() => socket.destroy())
    socket.write(requestAndReset())
    t.equal(await outcome, 'disconnected')
    t.equal(app.fastify.streamRegistry.size, 1)
    await (app.fastify.streamRegistry.get('ann', 'a') as Stream).send('still here')
    await received(live, 'still here')
    t.notMatch(live.text, 'octa-star-closed')
  })
}

t.test('a late request does not evict the oldest stream of a full scope', async t => {
  const app = await buildApp(t, { maxStreamsPerScope: 1 })
  const outcome = addRoutes(app)
  await app.listen()
  const live = await connect(app.url(withSignals('/stream/ann', { tabId: 'another tab' })))
  await requestAndLeave(t, app.port(), 'FIN')
  t.equal(await outcome, 'disconnected')
  await (app.fastify.streamRegistry.get('ann', 'another tab') as Stream).send('still here')
  t.match(await live.event(2), { data: 'still here' })
  live.leave()
})

/** Resolves to whether a stream opened before the next turn of the event loop, counted from the call of startStream. */
async function opensWithoutTurn (t: Test, options: AppOptions, paths: string[]): Promise<boolean[]> {
  const app = await buildApp(t, options)
  const opened: boolean[] = []
  app.fastify.get<{ Params: { scope: string } }>('/stream/:scope', { sse: 'only' }, async (request, reply) => {
    let hasTurned = false
    setImmediate(() => { hasTurned = true })
    const stream = await reply.startStream(request.params.scope)
    opened.push(!hasTurned)
    stream.keepAlive()
  })
  await app.listen()
  for (const path of paths) await connect(app.url(path))
  return opened
}

t.test('a start that ends no live holder opens without waiting for a turn of the event loop', async t => {
  const paths = [path, withSignals('/stream/ann', { tabId: 'b' }), withSignals('/stream/bob', { tabId: 'a' }), '/stream/ann', '/stream/ann']
  t.strictSame(await opensWithoutTurn(t, {}, paths), [true, true, true, true, true])
  t.strictSame(await opensWithoutTurn(t, { maxStreamsPerScope: 4 }, paths), [true, true, true, true, true], 'the same in a scope with a free place')
  t.strictSame(await opensWithoutTurn(t, {}, [path, path]), [true, false], 'a start that ends a live holder waits')
})
