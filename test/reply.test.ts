// A stream is an ordinary reply: cookies, sessions, headers and hooks of common plugins work as on any route.
import { once } from 'node:events'
import { Agent, type IncomingMessage, type ServerResponse } from 'node:http'
import { createRequire } from 'node:module'
import net, { type AddressInfo, type Socket } from 'node:net'
import { PassThrough } from 'node:stream'
import { setImmediate as turn } from 'node:timers/promises'
import compress from '@fastify/compress'
import cookie from '@fastify/cookie'
import etag from '@fastify/etag'
import { FastifyOtelInstrumentation } from '@fastify/otel'
import secureSession from '@fastify/secure-session'
import session from '@fastify/session'
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import octaStarStreams, { type CloseReason, type Stream } from '../lib/index.ts'
import { buildApp, holdUp, LEVELS, streamRoute, withSignals, type App } from './kit/app.ts'
import { connect, type Client } from './kit/client.ts'

// The types of the two session plugins exclude each other.
type PlainSession = { sessionId: string, visits?: number }
type SecureSession = { get: (name: string) => number | undefined, set: (name: string, value: number) => void }

const path = withSignals('/stream/ann', { tabId: 'a' })

const messages = (app: App, msg: string) => app.log.filter(line => line.msg === msg)

/** Waits for the end of Fastify's work after a response has closed: the hooks, and the log lines. */
async function settled (client: Client, stream: Stream): Promise<void> {
  await client.ended
  await stream.gone
  for (let turns = 0; turns < 10; turns++) await turn()
}

t.test('a cookie that the handler sets before the start arrives, beside a Set-Cookie header of another plugin', async t => {
  const app = await buildApp(t)
  await app.fastify.register(cookie)
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    reply.header('set-cookie', 'a=1').setCookie('seen', 'yes', { path: '/', sameSite: 'lax' })
    const stream = await reply.startStream('ann')
    stream.keepAlive()
  })
  await app.listen()
  const client = await connect(app.url('/stream'))
  t.strictSame(client.headers['set-cookie'], ['a=1', 'seen=yes; Path=/; SameSite=Lax'])
})

t.test('a new session\'s cookie arrives, and what the handler stored in the session is saved', async t => {
  const app = await buildApp(t)
  await app.fastify.register(cookie)
  await app.fastify.register(session, { secret: 'a secret that is long enough for a session', cookie: { secure: false } })
  const visits: number[] = []
  app.fastify.get('/stream', { sse: 'only' }, async (request, reply) => {
    const session = request.session as unknown as PlainSession
    visits.push(session.visits = (session.visits ?? 0) + 1)
    const stream = await reply.startStream(session.sessionId)
    stream.keepAlive()
  })
  await app.listen()
  const first = await connect(app.url('/stream'))
  const [sessionCookie] = first.headers['set-cookie']!
  t.match(sessionCookie, /^sessionId=/)
  await connect(app.url('/stream'), { headers: { cookie: sessionCookie!.split(';')[0]! } })
  t.strictSame(visits, [1, 2])
})

t.test('a secure session\'s cookie holds what the handler stored in the session', async t => {
  const app = await buildApp(t)
  await app.fastify.register(secureSession, { key: Buffer.alloc(32, 1) })
  const visits: number[] = []
  app.fastify.get('/stream', { sse: 'only' }, async (request, reply) => {
    const session = request.session as unknown as SecureSession
    visits.push((session.get('visits') ?? 0) + 1)
    session.set('visits', visits.at(-1)!)
    const stream = await reply.startStream('ann')
    stream.keepAlive()
  })
  await app.listen()
  const first = await connect(app.url('/stream'))
  await connect(app.url('/stream'), { headers: { cookie: first.headers['set-cookie']![0]!.split(';')[0]! } })
  t.strictSame(visits, [1, 2])
})

t.test('a header that an onSend hook sets arrives, and so do a status and headers that the handler set', async t => {
  const app = await buildApp(t)
  app.fastify.addHook('onSend', async (_request, reply, payload) => {
    reply.header('x-on-send', 'yes')
    return payload
  })
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    const stream = await reply.code(201).header('x-handler', 'yes').startStream('ann')
    stream.keepAlive()
  })
  await app.listen()
  t.match(await connect(app.url('/stream')), { status: 201, headers: { 'x-on-send': 'yes', 'x-handler': 'yes' } })
})

t.test('headers that the application sets on the raw response arrive beside those of the reply, and a header without a value is not sent', async t => {
  const app = await buildApp(t)
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    reply.raw.setHeader('x-raw', ['one', 'two'])
    const stream = await reply.headers({ 'x-number': 7, 'x-null': null as unknown as undefined, 'x-undefined': undefined }).startStream('ann')
    stream.keepAlive()
  })
  await app.listen()
  const { headers } = await connect(app.url('/stream'))
  t.match(headers, { 'x-raw': 'one, two', 'x-number': '7', 'content-type': 'text/event-stream' })
  t.notOk('x-null' in headers)
  t.notMatch(headers, { 'x-undefined': 'undefined' })
})

t.test('a header that is not valid is an error of the route, and the holder of the key goes on', async t => {
  const app = await buildApp(t, { errorsExpected: true })
  const wrong = { '/name': ['x y', 'fine'], '/value': ['x', 'a\nb'], '/list': ['x', ['fine', undefined]] } as const
  for (const [url, [name, value]] of Object.entries(wrong)) {
    app.fastify.get(url, { sse: 'only' }, async (_request, reply) => {
      await reply.header(name, value).startStream('ann')
    })
  }
  const streams = streamRoute(app)
  await app.listen()
  await connect(app.url(path))
  for (const url of Object.keys(wrong)) t.equal((await connect(app.url(withSignals(url, { tabId: 'a' })))).status, 500)
  t.strictSame([...app.fastify.streamRegistry], streams)
})

t.test('a head that only Node can refuse is an error in the log, breaks the response off, and leaves nothing behind', async t => {
  const app = await buildApp(t, { errorsExpected: true })
  app.fastify.get('/wrong', { sse: 'only' }, async (_request, reply) => {
    reply.raw.statusMessage = 'a\nb'
    await reply.startStream('ann')
  })
  const streams = streamRoute(app)
  await app.listen()
  const refused = () => t.rejects(connect(app.url(withSignals('/wrong', { tabId: 'a' }))))
  await refused()
  // Now behind a predecessor.
  await connect(app.url(path))
  await refused()
  t.equal(await streams[0]!.gone, 'replaced')
  while (app.fastify.streamRegistry.size > 0) await turn()
  t.strictSame(app.log.filter(({ err }) => (err as { code?: string } | undefined)?.code === 'ERR_INVALID_CHAR').map(({ level }) => level), [LEVELS.error, LEVELS.error])
})

t.test('a stream that is evicted before it opens is answered 204, with the headers of the reply', async t => {
  const app = await buildApp(t)
  app.fastify.addHook('onRequest', async (_request, reply) => { reply.header('x-request', '1') })
  const streams = streamRoute(app)
  await app.listen()
  await connect(app.url(path))
  const letGo = holdUp(streams[0]!)
  const waiting = connect(app.url(path))
  while (!streams[0]!.closing) await turn()
  const evicted = app.fastify.streamRegistry.evict('ann')
  const { status, headers } = await waiting
  t.match({ status, headers }, { status: 204, headers: { 'x-request': '1' } })
  t.notOk('content-type' in headers)
  t.notOk('cache-control' in headers)
  letGo()
  await evicted
})

/** Makes the tab of a live stream open another stream on a route with the hook. Returns the answer after the answer has ended. */
async function startWithHook (t: Test, onSend: (payload: unknown) => unknown): Promise<{ client: Client, refusals: unknown[] }> {
  const app = await buildApp(t, { errorsExpected: true })
  const refusals: unknown[] = []
  app.fastify.get('/hooked', { sse: 'only', onSend: async (_request, _reply, payload) => await onSend(payload) }, async (_request, reply) => {
    const stream = await reply.startStream('ann').catch(error => {
      refusals.push(error.reason)
      throw error
    })
    stream.keepAlive()
  })
  const streams = streamRoute(app)
  await app.listen()
  const holder = await connect(app.url(path))
  const client = await connect(app.url(withSignals('/hooked', { tabId: 'a' })))
  await client.ended
  while (refusals.length === 0) await turn()
  t.strictSame([...app.fastify.streamRegistry], [streams[0]], 'only the holder is registered')
  await streams[0]!.send('goes on')
  t.equal((await holder.event(1)).data, 'goes on', 'the holder was not touched')
  return { client, refusals }
}

t.test('if an onSend hook throws, the error of the route is the answer, no stream exists, and the holder of the key goes on', async t => {
  const { client, refusals } = await startWithHook(t, () => { throw new Error('a fault in onSend') })
  t.match({ ...client, body: JSON.parse(client.text) }, { status: 500, body: { statusCode: 500, message: 'a fault in onSend' } })
  t.strictSame(refusals, ['failed'])
})

t.test('if an onSend hook answers by itself, the client gets that answer, no stream exists, and the holder of the key goes on', async t => {
  const { client, refusals } = await startWithHook(t, () => 'an answer of its own')
  t.match(client, { status: 200, text: 'an answer of its own' })
  t.equal(await client.ended, 'clean')
  t.strictSame(refusals, ['failed'])
})

// The hook also runs for the text of the error that answers the transform.
const transform = (payload: unknown) => typeof payload === 'string' ? payload : (payload as NodeJS.ReadableStream).pipe(new PassThrough())
const transforms: Record<string, (payload: unknown) => unknown> = {
  'at once': transform,
  'and does something else before it returns': async payload => {
    const transformed = transform(payload)
    for (let turns = 0; turns < 3; turns++) await turn()
    return transformed
  }
}
for (const [when, onSend] of Object.entries(transforms)) {
  t.test(`if an onSend hook pipes the payload through a transform ${when}, the answer is an error that says so, and the holder of the key goes on`, async t => {
    const { client, refusals } = await startWithHook(t, onSend)
    t.match({ ...client, body: JSON.parse(client.text) }, { status: 500, body: { code: 'FST_ERR_OCTA_STAR_ON_SEND', message: /onSend hook .* GET \/hooked/ } })
    t.strictSame(refusals, ['failed'])
  })
}

t.test('the content type is text/event-stream, whatever content type global hooks set', async t => {
  const app = await buildApp(t)
  app.fastify.addHook('onRequest', async (_request, reply) => { reply.type('application/json') })
  app.fastify.addHook('onSend', async (_request, reply, payload) => {
    reply.type('text/html; charset=utf-8')
    return payload
  })
  streamRoute(app)
  await app.listen()
  t.equal((await connect(app.url(path))).headers['content-type'], 'text/event-stream')
})

t.test('Cache-Control is no-cache, no-transform, unless a hook or the handler has set another value', async t => {
  const app = await buildApp(t)
  app.fastify.addHook('onRequest', async (request, reply) => {
    if (request.url === '/hook') reply.header('cache-control', 'private, no-transform')
  })
  app.fastify.addHook('onSend', async (request, reply, payload) => {
    if (request.url === '/on-send') reply.header('cache-control', 'no-cache, private')
    return payload
  })
  for (const url of ['/default', '/hook', '/handler', '/on-send']) {
    app.fastify.get(url, { sse: 'only' }, async (_request, reply) => {
      if (url === '/handler') reply.header('cache-control', 'no-store')
      const stream = await reply.startStream('ann')
      stream.keepAlive()
    })
  }
  await app.listen()
  const cacheControl = async (url: string) => (await connect(app.url(url))).headers['cache-control']
  t.equal(await cacheControl('/default'), 'no-cache, no-transform')
  t.equal(await cacheControl('/hook'), 'private, no-transform')
  t.equal(await cacheControl('/handler'), 'no-store')
  t.equal(await cacheControl('/on-send'), 'no-cache, private')
})

t.test('the head has the headers of @fastify/sse, unless the application has set others in their place', async t => {
  const app = await buildApp(t)
  app.fastify.addHook('onSend', async (request, reply, payload) => {
    if (request.url === '/others') reply.header('x-accel-buffering', 'yes').header('connection', 'close').removeHeader('cache-control')
    return payload
  })
  for (const url of ['/defaults', '/others']) {
    app.fastify.get(url, { sse: 'only' }, async (_request, reply) => {
      const stream = await reply.startStream('ann')
      stream.keepAlive()
    })
  }
  await app.listen()
  const common = { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked' }
  // A client without an agent asks for the end of the connection.
  const agent = new Agent({ keepAlive: true })
  t.teardown(() => agent.destroy())
  const head = async (url: string) => {
    const { date, ...headers } = (await connect(app.url(url), { agent })).headers
    return headers
  }
  t.strictSame(await head('/defaults'), { ...common, 'cache-control': 'no-cache, no-transform', 'x-accel-buffering': 'no', connection: 'keep-alive', 'keep-alive': 'timeout=72' })
  t.strictSame(await head('/others'), { ...common, 'cache-control': 'no-cache', 'x-accel-buffering': 'yes', connection: 'close' })
})

const clean: CloseReason[] = ['finished', 'replaced', 'evicted']
const broken: CloseReason[] = ['failed', 'expired', 'stalled', 'shutdown']

for (const reason of [...clean, ...broken]) {
  t.test(`a stream that ends as ${reason} is no abort of the client: ${clean.includes(reason) ? 'onResponse runs once, and the request is logged as completed' : 'onRequestAbort does not run'}`, async t => {
    const app = await buildApp(t)
    const ran: string[] = []
    app.fastify.addHook('onResponse', async () => { ran.push('onResponse') })
    app.fastify.addHook('onRequestAbort', async _request => { ran.push('onRequestAbort') })
    const streams = streamRoute(app)
    await app.listen()
    const client = await connect(app.url(path))
    if (reason === 'replaced') await connect(app.url(path))
    else if (reason === 'evicted') await app.fastify.streamRegistry.evict('ann')
    else streams[0]!.close(reason)
    await settled(client, streams[0]!)
    const completed = messages(app, 'request completed').filter(line => line.reqId === 'req-1')
    t.strictSame([ran.filter(hook => hook === 'onRequestAbort').length, ran.filter(hook => hook === 'onResponse').length, completed.length], clean.includes(reason) ? [0, 1, 1] : [0, 0, 0])
  })
}

t.test('a client that disconnects runs onRequestAbort once, and not onResponse', async t => {
  const app = await buildApp(t)
  const ran: string[] = []
  app.fastify.addHook('onResponse', async () => { ran.push('onResponse') })
  app.fastify.addHook('onRequestAbort', async _request => { ran.push('onRequestAbort') })
  const streams = streamRoute(app)
  await app.listen()
  const client = await connect(app.url(path))
  client.leave()
  while (ran.length === 0) await turn()
  await settled(client, streams[0]!)
  t.strictSame(ran, ['onRequestAbort'])
})

for (const order of ['before', 'after']) {
  t.test(`@fastify/otel, registered ${order} the plugin, sees the beginning and the end of each stream's request and handler, also when the handler throws`, async t => {
    const exporter = new InMemorySpanExporter()
    const otel = new FastifyOtelInstrumentation({})
    otel.setTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }))
    const fastify = Fastify()
    t.teardown(() => fastify.close())
    if (order === 'before') await fastify.register(otel.plugin())
    await fastify.register(octaStarStreams)
    if (order === 'after') await fastify.register(otel.plugin())
    const streams: Stream[] = []
    fastify.get('/:fate', { sse: 'only' }, async function handle (request, reply) {
      streams.push(await reply.startStream('ann'))
      if ((request.params as { fate: string }).fate === 'throws') throw new Error('a fault in the handler')
    })
    await fastify.listen({ port: 0, host: '127.0.0.1' })
    for (const [fate, ending] of [['returns', 'clean'], ['throws', 'broken']]) {
      exporter.reset()
      const client = await connect(`http://127.0.0.1:${(fastify.server.address() as AddressInfo).port}/${fate}`)
      t.equal(await client.ended, ending)
      await streams.at(-1)!.gone
      const spans = exporter.getFinishedSpans()
      const request = spans.filter(({ name }) => name === 'request')
      t.match(request, [{ attributes: { 'http.route': '/:fate', 'http.response.status_code': 200 } }], 'one span for the request has ended')
      const handler = spans.filter(({ attributes }) => attributes['fastify.type'] === 'request-handler')
      t.equal(handler.length, 1, 'one span for the handler has ended')
      // If @fastify/otel is registered first, as the documentation of @fastify/otel demands, it wraps the application's handler and sees the error.
      if (order === 'before') t.strictSame(handler[0]!.events.map(event => event.attributes?.['exception.message']), fate === 'throws' ? ['a fault in the handler'] : [])
    }
  })
}

// A client that sees each packet separately.
async function rawClient (t: Test, port: number, url: string): Promise<{ socket: Socket, chunks: string[] }> {
  const socket = net.connect(port, '127.0.0.1').setEncoding('utf8')
  t.teardown(() => socket.destroy())
  const chunks: string[] = []
  socket.on('data', chunk => { chunks.push(String(chunk)) })
  socket.write(`GET ${url} HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\n\r\n`)
  await once(socket, 'data')
  return { socket, chunks }
}

/** Counts the writes that the server hands over to the kernel, and the pieces. Node writes a socket's corked pieces with a single call of `_writev`. */
function countWrites (app: App): { count: number, pieces: number } {
  const writes = { count: 0, pieces: 0 }
  app.fastify.server.on('connection', (socket: any) => {
    for (const method of ['_write', '_writev']) {
      const original = socket[method]
      socket[method] = function (...args: unknown[]) {
        writes.count++
        writes.pieces += method === '_writev' ? (args[0] as unknown[]).length : 1
        return original.apply(this, args)
      }
    }
  })
  return writes
}

t.test('the head leaves at once, with an empty line in the same packet, so that Firefox shows the response', async t => {
  const app = await buildApp(t)
  const streams = streamRoute(app)
  await app.listen()
  const writes = countWrites(app)
  const client = await rawClient(t, app.port(), path)
  t.equal(client.chunks.length, 1)
  t.match(client.chunks[0], /^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\n1\r\n\n\r\n$/)
  t.strictSame(writes, { count: 1, pieces: 1 })
  await Promise.all([once(client.socket, 'data'), streams[0]!.send('later')])
  t.equal(client.chunks[1], 'd\r\ndata: later\n\n\r\n')
})

t.test('the farewell and the end of the response leave in one piece, and the connection can be used again', async t => {
  const app = await buildApp(t)
  streamRoute(app)
  await app.listen()
  const writes = countWrites(app)
  const { socket, chunks } = await rawClient(t, app.port(), path)
  writes.count = writes.pieces = 0
  await Promise.all([once(socket, 'data'), app.fastify.streamRegistry.evict('ann')])
  t.match(chunks.at(-1), /^[0-9a-f]+\r\nevent: octa-star-closed\n[^]*\n\n\r\n0\r\n\r\n$/)
  t.strictSame(writes, { count: 1, pieces: 1 })
  socket.write(`GET ${path} HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\n\r\n`)
  await once(socket, 'data')
  t.match(chunks.at(-1), /^HTTP\/1\.1 200 OK\r\n/)
})

t.test('an event that the handler sends at once leaves with the head, and takes the place of the empty line', async t => {
  const app = await buildApp(t)
  streamRoute(app, '/stream/:scope', stream => { stream.send('first') })
  await app.listen()
  const writes = countWrites(app)
  const client = await rawClient(t, app.port(), path)
  t.match(client.chunks[0], /\r\n\r\nd\r\ndata: first\n\n\r\n$/)
  t.strictSame([client.chunks.length, writes.count], [1, 1])
})

t.test('an EventSource client sees no event in the empty line', async t => {
  const app = await buildApp(t)
  const streams = streamRoute(app)
  await app.listen()
  const client = await connect(app.url(path))
  await streams[0]!.send('first')
  t.match(await client.event(1), { event: 'message', data: 'first' })
  t.equal(client.text, '\ndata: first\n\n')
})

t.test('compressing middleware does not hold events back', async t => {
  // The package does not include types.
  const compression = createRequire(import.meta.url)('compression')() as (request: IncomingMessage, response: ServerResponse, next: () => void) => void
  const app = await buildApp(t)
  app.fastify.addHook('onRequest', (request, reply, done) => { compression(request.raw, reply.raw, done) })
  const streams = streamRoute(app)
  await app.listen()
  const client = await connect(app.url(path), { headers: { 'accept-encoding': 'gzip' } })
  await streams[0]!.send('first')
  t.equal((await client.event(1)).data, 'first')
  t.equal(client.headers['content-encoding'], undefined)
  await streams[0]!.send('second')
  t.equal((await client.event(2)).data, 'second')
})

t.test('middleware that replaces the response\'s `write` gets each event unchanged', async t => {
  const app = await buildApp(t)
  const written: string[] = []
  app.fastify.addHook('onRequest', (_request, reply, done) => {
    const { write } = reply.raw
    reply.raw.write = function (this: ServerResponse, ...args: any[]) {
      written.push(args[0])
      return Reflect.apply(write, this, args)
    } as typeof write
    done()
  })
  const streams = streamRoute(app)
  await app.listen()
  const client = await connect(app.url(path))
  await streams[0]!.send('first')
  await streams[0]!.send('second')
  t.equal((await client.event(2)).data, 'second')
  t.strictSame(written, ['\n', 'data: first\n\n', 'data: second\n\n'])
})

t.test('an onSend hook that another plugin adds to the route later still runs before the stream opens', async t => {
  const app = await buildApp(t)
  app.fastify.addHook('onRoute', route => {
    const onSend = [route.onSend ?? []].flat()
    route.onSend = [...onSend, async (_request, reply, payload) => {
      reply.header('x-later', 'yes')
      return payload
    }]
  })
  const streams = streamRoute(app)
  await app.listen()
  const client = await connect(app.url(path))
  t.equal(client.headers['x-later'], 'yes')
  await streams[0]!.send('first')
  t.equal((await client.event(1)).data, 'first')
  const next = await connect(app.url(path))
  t.equal(await client.ended, 'clean')
  t.equal(next.headers['x-later'], 'yes')
})

t.test('with @fastify/compress and @fastify/etag for all routes, events arrive at once and unchanged', async t => {
  const app = await buildApp(t)
  await app.fastify.register(compress, { global: true, threshold: 0 })
  await app.fastify.register(etag)
  const streams = streamRoute(app)
  app.fastify.get('/json', async () => ({ ok: true }))
  await app.listen()
  const headers = { 'accept-encoding': 'gzip' }
  t.equal((await connect(app.url('/json'), { headers })).headers['content-encoding'], 'gzip', 'other routes are compressed')
  const client = await connect(app.url(path), { headers })
  await streams[0]!.send('first')
  t.equal((await client.event(1)).data, 'first')
  t.match(client.headers, { 'content-encoding': undefined, etag: undefined })
})
