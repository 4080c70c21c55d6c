// HTTP/2: a stream of a session ends without disturbing the session's other streams, in each way that a stream can end, and Node prints no warning.
import { EventEmitter, once } from 'node:events'
import http2, { type ClientHttp2Session } from 'node:http2'
import https from 'node:https'
import net from 'node:net'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import type { CloseReason, Stream } from '../lib/index.ts'
import { streamRoute, withSignals } from './kit/app.ts'
import { connect } from './kit/client.ts'
import { http2App, openIn, received, transportOptions, type Http2App, type Http2Client, type Transport } from './kit/http2.ts'
import { seeded } from './kit/seed.ts'

const { NGHTTP2_CANCEL, NGHTTP2_NO_ERROR } = http2.constants
const TRANSPORTS: Transport[] = ['in the clear', 'over TLS']

const warnings: Error[] = []
process.on('warning', warning => warnings.push(warning))

// A listening server with a stream route. Keeps the streams, the oldest first.
async function listen (t: Test, transport: Transport, onOpen?: (stream: Stream) => void): Promise<{ app: Http2App, streams: Stream[] }> {
  const app = await http2App(t, transport, { closeGrace: 100 })
  const streams = streamRoute(app, '/stream/:scope', onOpen)
  await app.listen()
  return { app, streams }
}

for (const transport of TRANSPORTS) {
  t.test(`${transport}: streams of one session end one by one, cleanly or with a reset, depending on the reason`, transportOptions(transport), async t => {
    const { app, streams } = await listen(t, transport)
    const session = app.session()

    const neighbour = await openIn(session, 'neighbour')
    for (const reason of ['replaced', 'evicted', 'finished', 'failed', 'stalled'] as CloseReason[]) {
      const tab = await openIn(session, reason)
      const own = streams.at(-1)!
      const closed = once(tab, 'close')
      if (reason === 'replaced') await openIn(session, reason)
      else own.close(reason)
      await closed
      const broken = reason === 'failed' || reason === 'stalled'
      t.equal(tab.rstCode, broken ? NGHTTP2_CANCEL : NGHTTP2_NO_ERROR, reason)
      t.equal(tab.text.includes('octa-star-closed'), reason === 'replaced' || reason === 'evicted')
      t.equal(await own.gone, reason)
    }

    const leaver = await openIn(session, 'leaver')
    leaver.close(NGHTTP2_CANCEL)
    t.equal(await streams.at(-1)!.closed, 'disconnected')

    streams[0]!.send('unharmed')
    await received(neighbour, 'data: unharmed\n\n')
    t.notOk(streams[0]!.signal.aborted)
  })

  t.test(`${transport}: a stream that is broken off in the turn of its opening leaves no heartbeat behind`, transportOptions(transport), async t => {
    const { app, streams } = await listen(t, transport, stream => stream.close('failed'))
    const tab = app.session().request({ ':path': withSignals('/stream/ann', { tabId: 'a' }), accept: 'text/event-stream' })
    await once(tab.resume().on('error', () => {}), 'close')
    await streams[0]!.gone
    // A response with a heartbeat keeps the process alive.
    t.notOk(process.getActiveResourcesInfo().includes('Timeout'))
  })

  t.test(`${transport}: a stream whose peer does not read is reset after closeGrace, and its neighbour goes on`, transportOptions(transport), async t => {
    const { app, streams } = await listen(t, transport, stream => stream.onReplaced(() => stream.send('a last word')))
    const session = app.session()
    const deaf = await openIn(session, 'a')
    deaf.pause()
    const blocked = streams[0]!.send('x'.repeat(1024 * 1024))
    blocked.catch(() => {})
    const closed = once(deaf, 'close')
    const successor = await openIn(session, 'a')
    t.equal(await streams[0]!.gone, 'replaced')
    streams[1]!.send('goes on')
    await received(successor, 'data: goes on\n\n')
    await closed
    t.equal(deaf.rstCode, NGHTTP2_CANCEL)
  })

  t.test(`${transport}: a shutdown resets every stream of every session`, transportOptions(transport), async t => {
    const { app, streams } = await listen(t, transport)
    const sessions = [app.session(), app.session()]
    const clients = await Promise.all(sessions.flatMap((session, index) => [openIn(session, `a${index}`), openIn(session, `b${index}`)]))
    const closed = clients.map(client => once(client, 'close'))
    await app.fastify.close()
    await Promise.all(closed)
    t.strictSame(clients.map(client => client.rstCode), Array(4).fill(NGHTTP2_CANCEL))
    t.strictSame(await Promise.all(streams.map(stream => stream.gone)), Array(4).fill('shutdown'))
  })
}

for (const isEnding of [false, true]) {
  t.test(`a stream ${isEnding ? 'that is ending ' : ''}whose client resets the stream without an error while data waits is gone, and does not keep the session`, async t => {
    const { app, streams } = await listen(t, 'in the clear')
    const session = app.session()
    const leaver = await openIn(session, 'leaver')
    leaver.pause()
    const stream = streams[0]!
    const sent = stream.send('x'.repeat(1024 * 1024))
    if (isEnding) stream.close('evicted')
    leaver.close(NGHTTP2_NO_ERROR)
    await t.rejects(sent, { name: 'AbortError' })
    t.equal(await stream.gone, isEnding ? 'evicted' : 'disconnected')
    t.equal(app.fastify.streamRegistry.size, 0)
    await app.fastify.close()
  })
}

for (const forceCloseConnections of [true, false]) {
  t.test(`close() ends a session that has carried a stream, although its client keeps its half of the connection open, with forceCloseConnections: ${forceCloseConnections}`, async t => {
    const app = await http2App(t, 'in the clear', { closeGrace: 20, fastify: { forceCloseConnections } })
    const streams = streamRoute(app)
    const asked = new EventEmitter()
    app.fastify.get('/slow', async () => {
      asked.emit('request')
      await once(asked, 'answer')
      return 'answered'
    })
    await app.listen()
    const socket = net.connect({ port: app.port(), host: '127.0.0.1', allowHalfOpen: true })
    const destroy = socket.destroy.bind(socket)
    t.teardown(destroy)
    const session = http2.connect(app.url('/'), { createConnection: () => Object.assign(socket, { end: () => socket, destroy: () => socket }) })
    session.on('error', () => {})
    await openIn(session, 'a')
    const slow = session.request({ ':path': '/slow' })
    let text = ''
    slow.setEncoding('utf8').on('data', data => { text += data })
    const ended = once(slow, 'end')
    await once(asked, 'request')
    const closed = app.fastify.close()
    t.equal(await streams[0]!.gone, 'shutdown')
    asked.emit('answer')
    await ended
    t.equal(text, 'answered', 'other requests of the session are answered first')
    await closed
  })
}

t.test('onRequestAbort runs when the client resets a stream, and does not run when the server resets a stream', async t => {
  const app = await http2App(t, 'in the clear', { closeGrace: 100 })
  const aborted: string[] = []
  app.fastify.addHook('onRequestAbort', async request => { aborted.push(request.id) })
  const streams = streamRoute(app)
  await app.listen()
  const session = app.session()
  await openIn(session, 'reset by the server')
  streams[0]!.close('failed')
  t.equal(await streams[0]!.gone, 'failed')
  const leaver = await openIn(session, 'reset by the client')
  leaver.close(NGHTTP2_CANCEL)
  t.equal(await streams[1]!.gone, 'disconnected')
  while (aborted.length === 0) await new Promise(resolve => setImmediate(resolve))
  t.strictSame(aborted, ['req-2'])
})

t.test('with one port for both, a stream over HTTP/2 replaces a stream over HTTP/1.1, and the other way round', transportOptions('over TLS'), async t => {
  const { app, streams } = await listen(t, 'over TLS')
  const agent = new https.Agent({ keepAlive: true, rejectUnauthorized: false })
  t.teardown(() => agent.destroy())
  const first = await connect(app.url(withSignals('/stream/ann', { tabId: 'a' })), { agent })
  t.equal(first.headers.connection, 'keep-alive')
  const second = await openIn(app.session(), 'a')
  t.equal(await first.ended, 'clean')
  t.equal(first.events.at(-1)!.data, 'replaced')
  const secondClosed = once(second, 'close')
  const third = await connect(app.url(withSignals('/stream/ann', { tabId: 'a' })), { agent })
  await secondClosed
  t.match(second.text, /octa-star-closed:replaced/)
  t.strictSame([...app.fastify.streamRegistry], [streams[2]])
  third.leave()
})

// Property: after any event of a stream, all other streams that are read receive the next message.

type Step = { type: 'open' | 'evict' | 'finish' | 'fail' | 'stall' | 'leave', session: number, tab: string } | { type: 'cut', session: number }

const steps = fc.array(fc.oneof(
  { arbitrary: fc.record({ type: fc.constant('open' as const), session: fc.nat(2), tab: fc.constantFrom('a', 'b', 'c', 'd', 'e') }), weight: 8 },
  { arbitrary: fc.record({ type: fc.constantFrom('evict' as const, 'finish' as const, 'fail' as const, 'stall' as const, 'leave' as const), session: fc.nat(2), tab: fc.constantFrom('a', 'b', 'c', 'd', 'e') }), weight: 5 },
  { arbitrary: fc.record({ type: fc.constant('cut' as const), session: fc.nat(2) }), weight: 1 }
), { minLength: 5, maxLength: 30, size: 'max' }) as fc.Arbitrary<Step[]>

interface Live { client: Http2Client, stream: Stream, session: number, stalled: boolean }

class Sessions {
  readonly live = new Map<string, Live>()
  readonly #app: Http2App
  readonly #scope: string
  readonly #sessions: Array<ClientHttp2Session | undefined> = []
  #sent = 0

  constructor (app: Http2App, scope: string) {
    this.#app = app
    this.#scope = scope
  }

  async run (steps: Step[]): Promise<void> {
    for (const step of steps) {
      await this.#take(step)
      await this.#allReceive()
    }
    for (const session of this.#sessions) session?.destroy()
    await Promise.all([...this.live.values()].map(({ stream }) => stream.gone))
  }

  async #take (step: Step): Promise<void> {
    if (step.type === 'cut') {
      this.#sessions[step.session]?.destroy()
      this.#sessions[step.session] = undefined
      for (const [tab, live] of this.live) if (live.session === step.session) await this.#expect(tab, live, 'disconnected')
      return
    }
    const { type, session, tab } = step
    const own = this.live.get(tab)
    if (type === 'open') {
      const client = await openIn(this.#sessions[session] ??= this.#app.session(), tab, `/stream/${this.#scope}`)
      if (own !== undefined) await this.#expect(tab, own, 'replaced')
      this.live.set(tab, { client, stream: this.#app.fastify.streamRegistry.get(this.#scope, tab) as Stream, session, stalled: false })
    } else if (own !== undefined) {
      switch (type) {
        case 'stall':
          // A single message is smaller than maxBufferedBytes.
          if (own.stalled) return
          own.stalled = true
          own.client.pause()
          own.stream.send('x'.repeat(512 * 1024))
          return
        case 'evict': this.#app.fastify.streamRegistry.evict(this.#scope, tab); return this.#expect(tab, own, 'evicted')
        case 'finish': own.stream.close(); return this.#expect(tab, own, 'finished')
        case 'fail': own.stream.close('failed'); return this.#expect(tab, own, 'failed')
        case 'leave': own.client.close(NGHTTP2_CANCEL); return this.#expect(tab, own, 'disconnected')
      }
    }
  }

  async #expect (tab: string, { client, stream, stalled }: Live, reason: CloseReason): Promise<void> {
    this.live.delete(tab)
    const gone = await stream.gone
    if (gone !== reason) throw new Error(`a stream ended as ${gone}, not as ${reason}`)
    if (!client.closed) await once(client, 'close')
    if (reason === 'disconnected') return
    const code = reason === 'failed' || stalled ? NGHTTP2_CANCEL : NGHTTP2_NO_ERROR
    if (client.rstCode !== code) throw new Error(`after ${reason} the code was ${client.rstCode}, not ${code}`)
  }

  async #allReceive (): Promise<void> {
    const word = `data: ${++this.#sent}\n\n`
    for (const { client, stream, stalled } of this.live.values()) {
      if (stalled) continue
      stream.send(String(this.#sent))
      await received(client, word)
    }
  }
}

for (const transport of TRANSPORTS) {
  t.test(`${transport}: whatever happens to one of five tabs' streams in three sessions, the other streams receive all messages`, transportOptions(transport), async t => {
    const { app } = await listen(t, transport)
    let runs = 0
    await fc.assert(fc.asyncProperty(steps, async steps => {
      const sessions = new Sessions(app, `scope-${++runs}`)
      await sessions.run(steps)
    }), { ...seeded(import.meta.url), numRuns: 40 })
    t.ok(runs >= 40)
  })
}

t.test('Node has printed no warning in any of these tests', async t => {
  await new Promise(setImmediate)
  t.strictSame(warnings, [])
})
