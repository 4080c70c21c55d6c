// The plugin in an application: the behaviour of Fastify around a stream, and the error of each wrong use.
import { EventEmitter, on, once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import { fastifySSE } from '@fastify/sse'
import Fastify, { type FastifyInstance } from 'fastify'
import t from 'tap'
import octaStarStreams, { octaStarStreams as named, type Stream, type UntypedRequest } from '../lib/index.ts'
import { buildApp, holdUp, LEVELS, streamRoute, withSignals } from './kit/app.ts'
import { connect } from './kit/client.ts'

const signals = JSON.stringify({ tabId: 'a' })

t.test('the head reaches the client before any event, with the headers of the reply', async t => {
  const app = await buildApp(t)
  app.fastify.addHook('onRequest', async (_request, reply) => { reply.header('access-control-allow-origin', '*') })
  const streams = streamRoute(app)
  await app.listen()
  const before = Date.now()
  const client = await connect(app.url(withSignals('/stream/ann', { tabId: 'a' })))
  t.equal(client.status, 200)
  t.match(client.headers, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache, no-transform', 'access-control-allow-origin': '*' })
  t.equal(client.text, '\n', 'an empty line, which no parser sees')
  t.match(streams[0], { scopeKey: 'ann', tabId: 'a', name: undefined })
  t.ok(streams[0]!.openedAt > before - 10_000 && streams[0]!.openedAt < Date.now() + 10_000)
  t.match(streams[0]!.id, /^[0-9a-f-]{36}$/)
})

t.test('a stream ends when its handler returns, unless the handler has called keepAlive', async t => {
  const app = await buildApp(t)
  app.fastify.get('/once', { sse: 'only' }, async (_request, reply) => {
    const stream = await reply.startStream('ann')
    await stream.send('only this')
    return 'a payload, which a stream has no place for'
  })
  app.fastify.get('/reply', { sse: 'only' }, async (_request, reply) => {
    await reply.startStream('ann')
    return reply
  })
  await app.listen()
  const client = await connect(app.url('/once'))
  t.equal(await client.ended, 'clean')
  t.equal(client.text, 'data: only this\n\n')
  const returned = await connect(app.url('/reply'))
  t.equal(await returned.ended, 'clean')
})

t.test('a handler may wait for `closed`, and does not keep `closed` from resolving', async t => {
  const app = await buildApp(t)
  const reasons: string[] = []
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    const stream = await reply.startStream('ann')
    reasons.push(await stream.closed)
  })
  await app.listen()
  await connect(app.url(withSignals('/stream', { tabId: 'a' })))
  const second = await connect(app.url(withSignals('/stream', { tabId: 'a' })))
  t.strictSame(reasons, ['replaced'])
  second.leave()
})

for (const method of ['POST', 'PUT', 'PATCH', 'DELETE']) {
  t.test(`${method} with the signals in a JSON body starts and replaces streams, and a disconnect is noticed`, async t => {
    // The request of a POST emits `close` when the body has been parsed, and not when the client disconnects.
    const app = await buildApp(t)
    const streams = streamRoute(app)
    await app.listen()
    const options = { method, headers: { 'content-type': 'application/json' }, body: signals }
    const first = await connect(app.url('/stream/ann'), options)
    const second = await connect(app.url('/stream/ann'), options)
    t.equal(await first.ended, 'clean')
    for (let i = 0; i < 20; i++) await turn()
    t.notOk(streams[1]!.signal.aborted)
    second.leave()
    t.equal(await streams[1]!.closed, 'disconnected')
  })
}

t.test('DELETE with the signals in the query, as Datastar sends it since 1.0.0', async t => {
  const app = await buildApp(t)
  const streams = streamRoute(app)
  await app.listen()
  await connect(app.url(withSignals('/stream/ann', { tabId: 'a' })), { method: 'DELETE' })
  t.equal(streams[0]!.tabId, 'a')
})

t.test('a schema with Ajv\'s defaults, which strips unknown properties, does not hide the tab id', async t => {
  const app = await buildApp(t)
  const streams: Stream[] = []
  const object = { type: 'object', additionalProperties: false, properties: { page: { type: 'string' } } }
  const handler = async (request: { query: unknown, body: unknown }, reply: { startStream: (scope: string) => Promise<Stream> }) => {
    t.notMatch(JSON.stringify([request.query, request.body]), /datastar|tabId/)
    const stream = await reply.startStream('ann')
    streams.push(stream)
    stream.keepAlive()
  }
  app.fastify.get('/get', { sse: 'only', schema: { querystring: object } }, handler as never)
  app.fastify.post('/post', { sse: 'only', schema: { body: object } }, handler as never)
  await app.listen()
  await connect(app.url(withSignals('/get', { tabId: 'a' })))
  await connect(app.url('/post'), { method: 'POST', headers: { 'content-type': 'application/json' }, body: signals })
  t.strictSame(streams.map(stream => stream.tabId), ['a', 'a'])
  t.equal(await streams[0]!.closed, 'replaced')
})

t.test('the option `signal` names another signal, and the option `tabId` reads the tab id from elsewhere', async t => {
  const app = await buildApp(t, { signal: 'window' })
  const streams = streamRoute(app)
  await app.listen()
  await connect(app.url(withSignals('/stream/ann', { window: 'w', tabId: 'a' })))
  t.equal(streams[0]!.tabId, 'w')

  const other = await buildApp(t, { tabId: request => (request.query as { tab?: string }).tab })
  const others = streamRoute(other)
  await other.listen()
  await connect(other.url('/stream/ann?tab=x&datastar=malformed'))
  await connect(other.url('/stream/ann'))
  t.strictSame(others.map(stream => stream.tabId), ['x', undefined])
  const twice = await connect(other.url('/stream/ann?tab=x&tab=y'))
  t.equal(twice.status, 400)
  t.notOk(others[0]!.signal.aborted)
})

t.test('bad input from a client is answered with a 400 that names the mistake, and the holder goes on', async t => {
  const app = await buildApp(t)
  const streams = streamRoute(app)
  app.fastify.post('/dual', { sse: 'dual' }, async () => 'an answer without a stream')
  await app.listen()
  await connect(app.url(withSignals('/stream/ann', { tabId: 'a' })))
  for (const [query, code] of [['{', 'SIGNALS'], ['[]', 'SIGNALS'], ['{"tabId":1}', 'TAB_ID'], ['{"tabId":""}', 'TAB_ID'], [`{"tabId":"${'x'.repeat(129)}"}`, 'TAB_ID']]) {
    const client = await connect(app.url(`/stream/ann?datastar=${encodeURIComponent(query!)}`))
    await client.ended
    t.equal(client.status, 400)
    t.match(JSON.parse(client.text), { code: `FST_ERR_OCTA_STAR_${code}`, message: /must be/ })
  }
  t.notOk(streams[0]!.signal.aborted)
  const array = await connect(app.url('/dual'), { method: 'POST', headers: { 'content-type': 'application/json', accept: 'application/json' }, body: '[1]' })
  await array.ended
  t.equal(array.text, 'an answer without a stream', 'a request that starts no stream needs no signals')
})

t.test('streams of different names live side by side, and each is replaced only by a stream of the same name', async t => {
  const app = await buildApp(t)
  const streams: Stream[] = []
  app.fastify.get<{ Params: { name: string } }>('/stream/:name', { sse: 'only' }, async (request, reply) => {
    const stream = await reply.startStream('ann', { name: request.params.name })
    streams.push(stream)
    stream.keepAlive()
  })
  await app.listen()
  for (const name of ['chat', 'orders', 'chat']) await connect(app.url(withSignals(`/stream/${name}`, { tabId: 'a' })))
  t.equal(await streams[0]!.closed, 'replaced')
  t.equal(app.fastify.streamRegistry.get('ann', 'a', 'orders'), streams[1])
  t.equal(app.fastify.streamRegistry.get('ann', 'a', 'chat'), streams[2])
  t.equal(app.fastify.streamRegistry.get('ann', 'a'), undefined)
  t.equal(await app.fastify.streamRegistry.evict('ann', 'a'), 2, 'an eviction of the tab ends both streams')
})

t.test('HEAD is answered with the head, and starts no stream', async t => {
  const app = await buildApp(t)
  const streams: Stream[] = []
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    streams.push(await reply.startStream('ann'))
    streams.at(-1)!.keepAlive()
  })
  await app.listen()
  const url = app.url(withSignals('/stream', { tabId: 'a' }))
  await connect(url)
  const head = await connect(url, { method: 'HEAD' })
  t.equal(head.status, 200)
  t.equal(head.headers['content-type'], 'text/event-stream')
  t.equal(await head.ended, 'clean')
  t.notOk(streams[0]!.signal.aborted)
  t.equal(streams.length, 1)
})

t.test('inject with payloadAsStream reads an open stream', async t => {
  const app = await buildApp(t)
  const streams = streamRoute(app)
  const response = await app.fastify.inject({ url: withSignals('/stream/ann', { tabId: 'a' }), payloadAsStream: true })
  t.equal(response.statusCode, 200)
  let text = ''
  response.stream().setEncoding('utf8').on('data', chunk => { text += chunk })
  await streams[0]!.send('hello')
  streams[0]!.close()
  await once(response.stream(), 'end')
  t.equal(text, '\ndata: hello\n\n')
  t.equal(await streams[0]!.closed, 'finished')
})

t.test('a loop over an emitter ends by itself in each way in which a stream ends, and no error is logged', async t => {
  const app = await buildApp(t)
  const orders = new EventEmitter()
  let running = 0
  const handlers = new EventEmitter()
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    running++
    try {
      const stream = await reply.startStream('ann')
      for await (const [order] of on(orders, 'change', { signal: stream.signal })) await stream.send({ event: 'order', data: order })
    } finally {
      running--
      handlers.emit('over')
    }
  })
  await app.listen()
  const url = app.url(withSignals('/stream', { tabId: 'a' }))
  await connect(url)
  const second = await connect(url)
  t.equal(running, 1, 'replaced')
  second.leave()
  await once(handlers, 'over')
  t.equal(running, 0, 'disconnected')
  await connect(url)
  await app.fastify.streamRegistry.evict('ann')
  t.equal(running, 0, 'evicted')
  await connect(url)
  await app.fastify.close()
  t.equal(running, 0, 'shutdown')
})

t.test('a request that waits for its predecessor while the server closes is broken off, and not answered with a 503', async t => {
  // A Datastar client stops for good at a 503.
  const app = await buildApp(t)
  let letGo = () => {}
  const streams = streamRoute(app, '/stream/:scope', stream => { letGo = holdUp(stream) })
  await app.listen()
  const url = app.url(withSignals('/stream/ann', { tabId: 'a' }))
  await connect(url)
  const waiting = connect(url)
  while (!streams[0]!.signal.aborted) await turn()
  const closed = app.fastify.close()
  await t.rejects(waiting, { code: 'ECONNRESET' })
  letGo()
  await closed
})

t.test('startStream called while the server closes is broken off as well', async t => {
  const app = await buildApp(t)
  let goOn = () => {}
  app.fastify.get('/stream', { sse: 'only', preHandler: () => new Promise<void>(resolve => { goOn = resolve }) }, async (_request, reply) => {
    await reply.startStream('ann')
  })
  app.fastify.addHook('preClose', async () => goOn())
  await app.listen()
  const waiting = connect(app.url('/stream'))
  while (!app.log.some(line => line.msg === 'incoming request')) await turn()
  await turn()
  const closed = app.fastify.close()
  await t.rejects(waiting, { code: 'ECONNRESET' })
  await closed
})

t.test('the answer to a superseded request passes through the application\'s onSend hooks, including asynchronous hooks', async t => {
  const app = await buildApp(t)
  let letGo = () => {}
  app.fastify.addHook('onSend', async (_request, reply) => {
    await turn()
    reply.header('x-by', 'the application')
  })
  const streams = streamRoute(app, '/stream/:scope', stream => { letGo = holdUp(stream) })
  await app.listen()
  const url = app.url(withSignals('/stream/ann', { tabId: 'a' }))
  await connect(url)
  const second = connect(url)
  while (!streams[0]!.signal.aborted) await turn()
  const evicted = app.fastify.streamRegistry.evict('ann')
  const { status, headers } = await second
  t.match({ status, headers }, { status: 204, headers: { 'x-by': 'the application' } })
  letGo()
  await evicted
  t.equal(app.log.filter(line => line.level >= LEVELS.warn).length, 0)
})

t.test('a full scope: the oldest stream makes room, and its client is told not to come back', async t => {
  const app = await buildApp(t, { maxStreamsPerScope: 2 })
  const streams = streamRoute(app)
  await app.listen()
  const clients = []
  for (const tabId of ['a', 'b', 'c', 'b']) clients.push(await connect(app.url(withSignals('/stream/ann', { tabId }))))
  await connect(app.url(withSignals('/stream/bob', { tabId: 'a' })))
  t.equal(await streams[0]!.closed, 'evicted')
  t.equal(await streams[1]!.closed, 'replaced')
  t.equal(clients[0]!.events.at(-1)!.data, 'evicted')
  t.strictSame([...app.fastify.streamRegistry], streams.slice(2))
})

t.test('in a full scope onLimit reject answers 429 with Retry-After, and a replacement does not count as an addition', async t => {
  const app = await buildApp(t, { maxStreamsPerScope: 1, onLimit: 'reject', replaceTimeout: 1_500 })
  const streams = streamRoute(app)
  await app.listen()
  await connect(app.url(withSignals('/stream/ann', { tabId: 'a' })))
  const refused = await connect(app.url(withSignals('/stream/ann', { tabId: 'b' })))
  await refused.ended
  t.equal(refused.status, 429)
  t.equal(refused.headers['retry-after'], '2')
  t.match(JSON.parse(refused.text), { code: 'FST_ERR_OCTA_STAR_LIMIT', message: /has 1 streams/ })
  t.notOk(streams[0]!.signal.aborted)
  t.equal((await connect(app.url(withSignals('/stream/ann', { tabId: 'a' })))).status, 200)
})

t.test('a wrong use fails at the first call, and the error names the mistake', async t => {
  const app = await buildApp(t, { errorsExpected: true })
  const { fastify } = app
  fastify.get('/no-sse', async (_request, reply) => reply.startStream('ann'))
  fastify.get('/twice', { sse: 'only' }, async (_request, reply) => {
    await reply.startStream('ann')
    await reply.startStream('ann')
  })
  fastify.get('/sent', { sse: 'only' }, async (_request, reply) => {
    await reply.send('an answer')
    await reply.startStream('ann').catch(error => said.push(error.message))
    return reply
  })
  fastify.get('/status/:status', { sse: 'only' }, async (request: UntypedRequest, reply) => {
    await reply.code(Number(request.params.status)).startStream('ann').catch(error => said.push(error.message))
    return reply.code(200).send('an answer')
  })
  fastify.get('/dual', { sse: 'dual' }, async (_request, reply) => reply.startStream('ann'))
  fastify.get('/name', { sse: 'only' }, async (_request, reply) => reply.startStream('ann', { name: '' }))
  fastify.get('/misspelt', { sse: 'only' }, async (_request, reply) => reply.startStream('ann', { nmae: 'orders' } as object))
  const said: string[] = []
  await app.listen()

  const ask = async (path: string, accept = 'text/event-stream') => {
    const client = await connect(app.url(path), { headers: { accept } })
    await client.ended
    return { status: client.status, ...client.text.startsWith('{') ? JSON.parse(client.text) : {} }
  }
  t.match(await ask('/no-sse'), { status: 500, code: 'FST_ERR_OCTA_STAR_ROUTE', message: /option `sse`, but GET \/no-sse has no such option\. Declare the route with { sse: 'only' }/ })
  t.match(await ask('/twice'), { status: 200 })
  t.match(app.log.filter(line => line.level >= LEVELS.error).at(-1), { err: { code: 'FST_ERR_OCTA_STAR_STARTED_TWICE' } }, 'the first stream has begun, so the error is only logged')
  t.match(await ask('/sent'), { status: 200 })
  t.match(said.splice(0), [/after the reply to GET \/sent was sent/])
  for (const status of [101, 103, 204, 205, 304]) {
    t.match(await ask(`/status/${status}`), { status: 200 })
    t.match(said.splice(0), [`status of GET /status/:status is ${status}. Leave`])
  }
  t.match(await ask('/misspelt'), { status: 500, code: 'FST_ERR_OCTA_STAR_UNKNOWN_OPTION', message: "octa-star-streams: unknown option 'startStream.nmae'. Known options: name" })
  t.match(await ask('/dual', '*/*'), { status: 406, code: 'FST_ERR_OCTA_STAR_NOT_ACCEPTABLE', message: /Accept header '\*\/\*'/ })
  t.match((await fastify.inject('/dual')).json(), { code: 'FST_ERR_OCTA_STAR_NOT_ACCEPTABLE', message: /Accept header ''/ })
  t.match(await ask('/twice', 'text/html'), { status: 406 })
  t.match(await ask('/name'), { status: 500, code: 'FST_ERR_OCTA_STAR_NAME' })
})

t.test('startStream in a hook is refused, and the error says where to call startStream', async t => {
  const fastify = Fastify()
  await fastify.register(octaStarStreams)
  fastify.get('/early', { sse: 'only', preHandler: async (_request, reply) => { await reply.startStream('ann') } }, async () => {})
  const response = await fastify.inject({ url: '/early', headers: { accept: 'text/event-stream' } })
  t.match(response.json(), {
    statusCode: 500,
    code: 'FST_ERR_OCTA_STAR_NOT_IN_HANDLER',
    message: 'startStream was called outside the handler of GET /early, in a hook or in an error handler. Call startStream in the handler'
  })
  t.equal(fastify.streamRegistry.size, 0)
  await fastify.close()
})

t.test('a route that is declared before the plugin has loaded fails, and the error says so', async t => {
  const fastify = Fastify()
  fastify.register(octaStarStreams)
  fastify.get('/early', { sse: 'only' }, async (_request, reply) => reply.startStream('ann'))
  const response = await fastify.inject('/early')
  t.match(response.json(), { code: 'FST_ERR_OCTA_STAR_ROUTE', message: /after the plugin has loaded: write `await fastify\.register/ })
  await fastify.close()
})

t.test('registering twice in one context, or below it, fails with a clear error', async t => {
  const fastify = Fastify()
  await fastify.register(octaStarStreams)
  await t.rejects(async () => { await fastify.register(octaStarStreams) }, { code: 'FST_ERR_OCTA_STAR_ALREADY_REGISTERED' })
  await t.rejects(async () => { await Fastify().register(octaStarStreams).register(async child => { await child.register(octaStarStreams) }) }, { code: 'FST_ERR_OCTA_STAR_ALREADY_REGISTERED' })
  await fastify.close()
})

t.test('registering beside another decorator of `request.tabId` fails with a clear error', async t => {
  const fastify = Fastify()
  fastify.decorateRequest('tabId', '')
  const message = 'octa-star-streams decorates requests with `tabId`, but `tabId` is already decorated. Give the other decorator a different name'
  await t.rejects(async () => { await fastify.register(octaStarStreams) }, { code: 'FST_ERR_OCTA_STAR_DECORATOR', message })
  await fastify.close()
})

t.test('two sibling contexts have separate registries, and a child context shares the registry of its parent', async t => {
  const fastify = Fastify()
  const streams: Record<string, Stream[]> = { left: [], right: [] }
  for (const side of ['left', 'right']) {
    fastify.register(async context => {
      await context.register(octaStarStreams)
      context.register(async child => {
        child.get('/stream', { sse: 'only' }, async (_request, reply) => {
          const stream = await reply.startStream('ann')
          streams[side]!.push(stream)
          stream.keepAlive()
          t.equal(child.streamRegistry, context.streamRegistry)
          t.equal(child.streamRegistry.get('ann', 'a'), stream)
        })
      })
    }, { prefix: `/${side}` })
  }
  await fastify.listen({ port: 0, host: '127.0.0.1' })
  t.notOk('streamRegistry' in fastify)
  const origin = fastify.listeningOrigin
  await connect(origin + withSignals('/left/stream', { tabId: 'a' }))
  await connect(origin + withSignals('/right/stream', { tabId: 'a' }))
  t.notOk(streams.left![0]!.signal.aborted)
  await connect(origin + withSignals('/left/stream', { tabId: 'a' }))
  t.equal(await streams.left![0]!.closed, 'replaced')
  t.notOk(streams.right![0]!.signal.aborted)
  await fastify.close()
})

t.test('a @fastify/sse of the application is used unchanged, whatever the order of registration, and options for @fastify/sse are then refused', async t => {
  for (const order of ['before', 'after']) {
    const fastify = Fastify()
    if (order === 'before') await fastify.register(fastifySSE, { serializer: data => `<${String(data)}>` })
    await fastify.register(octaStarStreams)
    if (order === 'after') await fastify.register(fastifySSE, { serializer: data => `<${String(data)}>` })
    fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
      const stream = await reply.startStream('ann')
      await stream.send({ data: 1 })
    })
    const response = await fastify.inject('/stream')
    t.equal(response.payload, order === 'before' ? 'data: <1>\n\n' : 'data: 1\n\n')
    await fastify.close()
  }
  const fastify = Fastify()
  await fastify.register(fastifySSE)
  await t.rejects(async () => { await fastify.register(octaStarStreams, { sse: { heartbeatInterval: 1 } }) }, { code: 'FST_ERR_OCTA_STAR_OPTION', message: /'sse' must be left out/ })
  await fastify.close()
})

t.test('the option `sse` reaches @fastify/sse: its heartbeat runs, and stops with the stream', async t => {
  const app = await buildApp(t, { sse: { heartbeatInterval: 10 } })
  const streams = streamRoute(app)
  await app.listen()
  const client = await connect(app.url('/stream/ann'))
  while (!client.text.includes(': heartbeat\n\n')) await turn()
  streams[0]!.close()
  t.equal(await client.ended, 'clean')
})

t.test('if the application registers @fastify/sse itself, a heartbeat interval as text counts, and an interval that no timer can wait for sends none', async t => {
  const clients = []
  for (const heartbeatInterval of [Infinity, 2 ** 31, '10']) {
    const fastify: FastifyInstance = Fastify()
    t.teardown(() => fastify.close())
    await fastify.register(fastifySSE, { heartbeatInterval: heartbeatInterval as number })
    await fastify.register(octaStarStreams)
    fastify.get('/', { sse: 'only' }, async (_request, reply) => { (await reply.startStream('ann')).keepAlive() })
    clients.push(await connect(await fastify.listen({ port: 0, host: '127.0.0.1' })))
  }
  while (clients[2]!.text.split(': heartbeat').length < 10) await once(clients[2]!, 'received')
  for (const { text } of clients.slice(0, 2)) t.equal(text, '\n')
})

t.test('hooks of a route are kept, and run after the plugin\'s own hooks', async t => {
  const app = await buildApp(t)
  const ran: string[] = []
  const hook = (name: string) => async () => { ran.push(name) }
  app.fastify.get('/stream', {
    sse: 'only', onRequest: [hook('onRequest 1'), hook('onRequest 2')], preValidation: hook('preValidation'), onResponse: [hook('onResponse')]
  }, async (_request, reply) => { await reply.startStream('ann') })
  await app.listen()
  await (await connect(app.url('/stream'))).ended
  while (ran.length < 4) await turn()
  t.strictSame(ran, ['onRequest 1', 'onRequest 2', 'preValidation', 'onResponse'])
})

t.test('a hook of the application may answer before the plugin\'s hook', async t => {
  // The plugin's onResponse hook expected that the plugin's onRequest hook had run.
  const app = await buildApp(t)
  app.fastify.addHook('onRequest', async (_request, reply) => reply.code(401).send('who are you?'))
  streamRoute(app)
  await app.listen()
  const client = await connect(app.url(withSignals('/stream/ann', { tabId: 'a' })))
  t.equal(client.status, 401)
  await client.ended
  t.equal(client.text, 'who are you?')
})

t.test('with forceCloseConnections the application\'s onClose hooks run when every stream has ended', async t => {
  const app = await buildApp(t, { fastify: { forceCloseConnections: true } })
  const order: string[] = []
  streamRoute(app, '/stream/:scope', stream => stream.onClose(async () => {
    await new Promise(resolve => setTimeout(resolve, 30))
    order.push('cleaned up')
  }))
  app.fastify.addHook('onClose', async () => { order.push('database closed') })
  await app.listen()
  await connect(app.url('/stream/ann'))
  await app.fastify.close()
  t.strictSame(order, ['cleaned up', 'database closed'])
})

// The plugin has to load within pluginTimeout, also on a busy machine. A close may take half of pluginTimeout.
for (const pluginTimeout of [3_000, 0]) {
  t.test(`a handler that hangs does not make fastify.close() fail, with pluginTimeout ${pluginTimeout}`, async t => {
    const app = await buildApp(t, { replaceTimeout: pluginTimeout === 0 ? 100 : 3_600_000, fastify: { pluginTimeout } })
    let letGo = () => {}
    app.fastify.get('/deaf', { sse: 'only' }, async (_request, reply) => {
      await reply.startStream('ann')
      await new Promise<void>(resolve => { letGo = resolve })
    })
    await app.listen()
    const client = await connect(app.url('/deaf'))
    await app.fastify.close()
    t.equal(await client.ended, 'broken')
    t.match(app.log.filter(line => line.level === LEVELS.warn), [{ msg: /Still running: the handler/ }])
    letGo()
  })
}

t.test('a handlerTimeout does not end a stream', async t => {
  const app = await buildApp(t, { fastify: { handlerTimeout: 500 } })
  const streams = streamRoute(app)
  await app.listen()
  await connect(app.url('/stream/ann'))
  await new Promise(resolve => setTimeout(resolve, 600))
  t.notOk(streams[0]!.signal.aborted)
})

t.test('a route without `sse` is not changed by the plugin', async t => {
  const app = await buildApp(t)
  app.fastify.get('/plain', async (_request, reply) => {
    t.strictSame(Object.getOwnPropertySymbols(reply).filter(symbol => String(symbol).includes('octa')), [])
    return { listeners: reply.raw.listenerCount('close') }
  })
  const bare = Fastify()
  bare.get('/plain', async (_request, reply) => ({ listeners: reply.raw.listenerCount('close') }))
  t.strictSame((await app.fastify.inject('/plain')).json(), (await bare.inject('/plain')).json())
})

t.test('an error that a handler throws before its stream starts is answered like any error', async t => {
  const app = await buildApp(t, { errorsExpected: true })
  app.fastify.get('/stream', { sse: 'only' }, async () => { throw Object.assign(new Error('not yours'), { statusCode: 403 }) })
  app.fastify.get('/header', { sse: 'only' }, async (_request, reply) => {
    reply.header('x-bad', 'a\nb')
    await reply.startStream('ann')
  })
  await app.listen()
  t.equal((await connect(app.url('/stream'))).status, 403)
  t.equal((await connect(app.url('/header'))).status, 500, 'also if the head cannot be sent')
})

t.test('the plugin has its names', async t => {
  t.equal(named, octaStarStreams)
  const fastify = Fastify()
  await fastify.register(octaStarStreams)
  t.ok(fastify.hasPlugin('octa-star-streams'))
  t.ok(fastify.hasPlugin('@fastify/sse'))
  await fastify.close()
})
