// The application's own hooks, error handler and timeouts around a stream: which of these run, and how the stream ends when they throw.
import { EventEmitter, once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { buildApp, holdUp, LEVELS, streamRoute, withSignals, type App, type AppOptions } from './kit/app.ts'
import { connect } from './kit/client.ts'

const path = withSignals('/stream/ann', { tabId: 'a' })
const errors = (app: App) => app.log.filter(line => line.level >= LEVELS.error).map(line => [line.msg, (line.err as Error | undefined)?.message])

type Hook = 'onRequest' | 'preParsing' | 'preValidation' | 'preHandler' | 'onSend' | 'onError' | 'onResponse' | 'onRequestAbort' | 'onTimeout'

// An app that keeps the names of the `hooks` that have run for stream routes. A hook fails if `failing` contains its name.
async function hooked (t: Test, hooks: Hook[], options: AppOptions = {}): Promise<{ app: App, ran: Hook[], failing: Set<Hook> }> {
  const app = await buildApp(t, { errorsExpected: true, ...options })
  const ran: Hook[] = []
  const failing = new Set<Hook>()
  for (const hook of hooks) {
    // Not async functions: Fastify counts the arguments of a hook, and expects another number for each hook.
    app.fastify.addHook(hook as 'onRequest', () => {
      ran.push(hook)
      return failing.has(hook) ? Promise.reject(new Error(`a fault in ${hook}`)) : Promise.resolve()
    })
  }
  return { app, ran, failing }
}

t.test('if a hook throws before the handler, the hook\'s error is the answer, no holder is touched, and nothing is left behind', async t => {
  const hooks: Hook[] = ['onRequest', 'preParsing', 'preValidation', 'preHandler']
  const { app, failing } = await hooked(t, hooks)
  const streams = streamRoute(app)
  await app.listen()
  const first = await connect(app.url(path))
  for (const hook of hooks) {
    failing.add(hook)
    const client = await connect(app.url(path))
    await client.ended
    t.match(JSON.parse(client.text), { statusCode: 500, message: `a fault in ${hook}` })
    failing.delete(hook)
  }
  t.strictSame([...app.fastify.streamRegistry], [streams[0]])
  t.notOk(streams[0]!.signal.aborted)
  first.leave()
})

t.test('onSend hooks run before a stream opens, so an error of a hook is answered as on any route, and no holder is touched', async t => {
  const { app, ran, failing } = await hooked(t, ['onSend'])
  const streams = streamRoute(app)
  await app.listen()
  const first = await connect(app.url(path))
  t.strictSame(ran, ['onSend'])
  failing.add('onSend')
  const second = await connect(app.url(path))
  t.equal(second.status, 500)
  await second.ended
  t.match(JSON.parse(second.text), { message: 'a fault in onSend' })
  t.strictSame([...app.fastify.streamRegistry], [streams[0]])
  t.notOk(streams[0]!.signal.aborted)
  t.equal(await app.fastify.streamRegistry.count('ann'), 1)
  first.leave()
})

t.test('onError and the error handler see an error before the start, and an error after the start is only logged', async t => {
  const { app, ran } = await hooked(t, ['onError'])
  let handled = 0
  app.fastify.setErrorHandler((error, _request, reply) => {
    handled++
    reply.code(503).send(error)
  })
  for (const when of ['before', 'after']) {
    app.fastify.get(`/${when}`, { sse: 'only' }, async (_request, reply) => {
      if (when === 'after') await reply.startStream('ann')
      throw new Error(when)
    })
  }
  await app.listen()
  t.equal((await connect(app.url('/before'))).status, 503)
  t.strictSame([ran, handled], [['onError'], 1])
  t.equal(await (await connect(app.url('/after'))).ended, 'broken')
  t.strictSame([ran, handled], [['onError'], 1])
  t.strictSame(errors(app).at(-1), ['the handler of the stream on GET /after threw an error', 'after'])
})

t.test('if an onError hook or an error handler throws, Fastify answers, and no holder is touched', async t => {
  const { app, failing } = await hooked(t, ['onError'])
  failing.add('onError')
  app.fastify.setErrorHandler(() => { throw new Error('a fault in the error handler') })
  app.fastify.get('/fault', { sse: 'only' }, async () => { throw new Error('a fault') })
  const streams = streamRoute(app)
  await app.listen()
  const first = await connect(app.url(path))
  t.equal((await connect(app.url(withSignals('/fault', { tabId: 'a' })))).status, 500)
  t.notOk(streams[0]!.signal.aborted)
  first.leave()
})

t.test('onRequestAbort and onResponse run around a stream as around any response, and may throw', async t => {
  const { app, ran, failing } = await hooked(t, ['onRequestAbort', 'onResponse'])
  failing.add('onRequestAbort').add('onResponse')
  const streams = streamRoute(app)
  await app.listen()
  const leaver = await connect(app.url(path))
  leaver.leave()
  t.equal(await streams[0]!.gone, 'disconnected')
  while (errors(app).length < 1) await turn()
  const stayer = await connect(app.url(path))
  streams[1]!.close()
  t.equal(await stayer.ended, 'clean')
  t.equal(await streams[1]!.gone, 'finished')
  while (errors(app).length < 2) await turn()
  t.strictSame(ran, ['onRequestAbort', 'onResponse'])
  t.match(errors(app), [[/onRequestAborted hook failed/, 'a fault in onRequestAbort'], [/.*/, 'a fault in onResponse']])
})

t.test('a connectionTimeout ends a stream that is silent for longer as expired, and a heartbeat keeps the stream', async t => {
  const { app, ran } = await hooked(t, ['onTimeout'], { stallTimeout: Infinity, fastify: { connectionTimeout: 200 } })
  const streams = streamRoute(app)
  await app.listen()
  const client = await connect(app.url(path))
  t.equal(await client.ended, 'broken')
  t.equal(await streams[0]!.gone, 'expired')
  t.strictSame(ran, [], 'Fastify gives up its own hook for a response that is not its own')

  // Twenty heartbeats fit into the limit, so that a busy machine, which delays heartbeats, does not miss all of them.
  const beating = await buildApp(t, { stallTimeout: Infinity, fastify: { connectionTimeout: 2_000 }, sse: { heartbeatInterval: 100 } })
  const kept = streamRoute(beating)
  await beating.listen()
  const listener = await connect(beating.url(path))
  while (listener.text.split(': heartbeat').length < 24) await once(listener, 'received')
  t.notOk(kept[0]!.signal.aborted)
  listener.leave()
})

t.test('a stream that a connectionTimeout breaks off while it waits for its predecessor never becomes a holder', async t => {
  const { app, ran } = await hooked(t, ['onTimeout'], { fastify: { connectionTimeout: 2_000 }, replaceTimeout: 3_600_000, sse: { heartbeatInterval: 100 } })
  const streams = streamRoute(app)
  await app.listen()
  await connect(app.url(path))
  const letGo = holdUp(streams[0]!)
  const seen = new Promise(resolve => app.fastify.server.on('request', (_request, response) => response.on('close', resolve)))
  await t.rejects(connect(app.url(path)), { code: 'ECONNRESET' })
  t.strictSame(ran, [], 'the response belongs to the stream already')
  await seen
  letGo()
  await streams[0]!.gone
  while (await app.fastify.streamRegistry.count('ann') > 0) await turn()
  t.equal(streams.length, 1)
})

t.test('a connectionTimeout that comes while data waits for the client ends the stream as stalled', async t => {
  const { app } = await hooked(t, [], { stallTimeout: Infinity, fastify: { connectionTimeout: 500 } })
  const streams = streamRoute(app, '/stream/:scope', stream => { stream.send('x'.repeat(30_000_000)).catch(() => {}) })
  await app.listen()
  const deaf = net.connect(app.port(), '127.0.0.1').on('error', () => {})
  deaf.write(`GET ${path} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n`)
  while (streams.length === 0) await turn()
  t.equal(await streams[0]!.gone, 'stalled')
  deaf.destroy()
})

t.test('a connectionTimeout that a heartbeat does not prevent is a warning at registration, which says what happens', async t => {
  const warned = async (options: AppOptions) => (await buildApp(t, options)).log.filter(({ level }) => level === LEVELS.warn).map(({ msg }) => msg)
  t.strictSame(await warned({ fastify: { connectionTimeout: 5_000 }, stallTimeout: Infinity }), [
    'octa-star-streams: connectionTimeout, 5000 ms, is not longer than the heartbeat interval, 30000 ms. A stream that sends nothing for that long ends as ' +
    "'expired', and its client reconnects. Set sse.heartbeatInterval to less than connectionTimeout"
  ])
  t.match(await warned({ fastify: { connectionTimeout: 50_000 }, stallTimeout: Infinity, sse: { heartbeatInterval: 0 } }), [/connectionTimeout, 50000 ms, is set, and the heartbeat is off\. /])
  t.strictSame(await warned({ fastify: { connectionTimeout: 50_000 }, stallTimeout: Infinity }), [])
  t.strictSame(await warned({ fastify: { connectionTimeout: 5_000 }, stallTimeout: Infinity, sse: { heartbeatInterval: 1_000 } }), [])
  t.strictSame(await warned({ fastify: { connectionTimeout: 5_000 }, stallTimeout: 20_000 }), [], 'stallTimeout takes the place of connectionTimeout')
  t.strictSame(await warned({ stallTimeout: Infinity }), [])
})

t.test('request.signal, read after the start, aborts when the client disconnects, behind an asynchronous onSend hook too', async t => {
  const app = await buildApp(t)
  app.fastify.addHook('onSend', async () => { await turn() })
  const signals: AbortSignal[] = []
  app.fastify.get('/stream', { sse: 'only' }, async (request, reply) => {
    const stream = await reply.startStream('ann')
    stream.keepAlive()
    signals.push(request.signal)
  })
  await app.listen()
  const client = await connect(app.url('/stream'))
  while (signals.length === 0) await turn()
  t.notOk(signals[0]!.aborted)
  client.leave()
  if (!signals[0]!.aborted) await once(signals[0]!, 'abort')
})

t.test('a handlerTimeout while a stream waits for its predecessor breaks the connection off, because an EventSource stops for good at a 503', async t => {
  const { app } = await hooked(t, [], { fastify: { handlerTimeout: 1_000 }, replaceTimeout: 3_600_000 })
  const streams = streamRoute(app)
  await app.listen()
  await connect(app.url(path))
  const letGo = holdUp(streams[0]!)
  await t.rejects(connect(app.url(path)), { code: 'ECONNRESET' })
  t.match(app.log.filter(line => line.level >= LEVELS.warn), [{ level: LEVELS.warn, msg: 'a stream on GET /stream/:scope waited for its predecessor when handlerTimeout, 1000 ms, was over, so the connection was broken off' }])
  const third = connect(app.url(path))
  letGo()
  t.equal((await third).status, 200, 'a client that comes back gets a stream')
  t.strictSame([...app.fastify.streamRegistry], [streams[1]])
  streams[1]!.close()
})

for (const [what, isRouteHook, message] of [
  ['a hook of the application that returns', false, undefined],
  ['a hook of the application that throws', false, 'a fault in onSend'],
  ['a hook of another plugin, which runs last', true, undefined]
] as const) {
  t.test(`a handlerTimeout while onSend hooks run breaks the connection off: ${what}`, async t => {
    const { app } = await hooked(t, [], { fastify: { handlerTimeout: 1_000 } })
    const warnings = () => app.log.filter(line => line.level >= LEVELS.warn)
    const hook = new EventEmitter()
    const slow = async () => {
      while (warnings().length === 0) await turn()
      hook.emit('done')
      if (message !== undefined) throw new Error(message)
    }
    if (isRouteHook) app.fastify.addHook('onRoute', route => { if (route.sse) route.onSend = [...[route.onSend ?? []].flat(), slow] })
    else app.fastify.addHook('onSend', slow)
    streamRoute(app)
    await app.listen()
    const hookDone = once(hook, 'done')
    await t.rejects(connect(app.url(path)), { code: 'ECONNRESET' })
    t.match(warnings()[0], { level: LEVELS.warn, msg: 'a stream on GET /stream/:scope waited for onSend hooks when handlerTimeout, 1000 ms, was over, so the connection was broken off' })
    await hookDone
    for (let turns = 0; turns < 3; turns++) await turn()
    t.strictSame(errors(app).slice(0, 1).map(([msg]) => msg), message === undefined ? [] : [message])
    t.equal(app.fastify.streamRegistry.size, 0)
    t.equal(await app.fastify.streamRegistry.count('ann'), 0)
  })
}

t.test('a handlerTimeout while onSend hooks run breaks the connection off although the timer of Fastify is due first', async t => {
  const { app } = await hooked(t, [], { fastify: { handlerTimeout: 500 } })
  app.fastify.addHook('onSend', async (_request, reply) => {
    // The time that Fastify measures for the reply begins when the process comes to the request, and the timer of Fastify before that.
    Object.defineProperty(reply, 'elapsedTime', { value: 0 })
    while (app.log.every(({ level }) => level < LEVELS.warn)) await turn()
  })
  streamRoute(app)
  await app.listen()
  await t.rejects(connect(app.url(path)), { code: 'ECONNRESET' })
  t.strictSame(app.log.filter(line => line.level >= LEVELS.warn).length, 1)
})

t.test('a stream that ends while onSend hooks run longer than handlerTimeout is answered as if there were no handlerTimeout', async t => {
  const { app } = await hooked(t, [], { fastify: { handlerTimeout: 100 } })
  const hooks = new EventEmitter()
  app.fastify.addHook('onSend', async ({ url }, reply) => {
    if (url === '/plain') return
    hooks.emit('run')
    while (!reply.sent) await turn()
  })
  streamRoute(app)
  app.fastify.get('/forgets', { sse: 'only' }, async (_request, reply) => { reply.startStream('ann').catch(() => {}) })
  app.fastify.get('/plain', async () => 'plain')
  await app.listen()
  const socket = new http.Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => socket.destroy())

  const run = once(hooks, 'run')
  const evicted = connect(app.url(path), { agent: socket })
  await run
  t.equal(await app.fastify.streamRegistry.evict('ann'), 1)
  t.equal((await evicted).status, 204)
  const empty = await connect(app.url('/forgets'), { agent: socket })
  t.equal(await empty.ended, 'clean')
  t.strictSame([empty.status, empty.text], [200, ''])
  for (const client of [await evicted, empty]) t.notOk('content-length' in client.headers, 'the head of a 503 of Fastify is not mixed in')
  const plain = await connect(app.url('/plain'), { agent: socket })
  await plain.ended
  t.equal(plain.text, 'plain')
  t.strictSame(errors(app), [])
})

t.test('after a handlerTimeout before the start, startStream rejects because the reply was sent, and touches no holder', async t => {
  const app = await buildApp(t, { errorsExpected: true, fastify: { handlerTimeout: 1_000 } })
  let goOn = () => {}
  app.fastify.get('/slow', { sse: 'only' }, async (_request, reply) => {
    await new Promise<void>(resolve => { goOn = resolve })
    await reply.startStream('ann')
  })
  const streams = streamRoute(app)
  await app.listen()
  const first = await connect(app.url(path))
  t.equal((await connect(app.url(withSignals('/slow', { tabId: 'a' })))).status, 503)
  goOn()
  while (errors(app).length < 2) await turn()
  t.match(app.log.at(-1), { err: { code: 'FST_ERR_OCTA_STAR_REPLY_SENT' } })
  t.notOk(streams[0]!.signal.aborted)
  first.leave()
})

t.test('an eviction ends a stream whose hooks still run, and spares the streams of other tabs and scopes', async t => {
  const app = await buildApp(t)
  const { streamRegistry } = app.fastify
  let goOn = () => {}
  const held = new Promise<void>(resolve => { goOn = resolve })
  const waiting: string[] = []
  app.fastify.addHook('onSend', async ({ url }) => {
    waiting.push(url)
    await held
  })
  const streams = streamRoute(app)
  await app.listen()
  const [ann, other, bob] = [withSignals('/stream/ann', { tabId: 'a' }), withSignals('/stream/ann', { tabId: 'b' }), withSignals('/stream/bob', { tabId: 'a' })].map(path => connect(app.url(path)))
  while (waiting.length < 3) await turn()
  const evicted = streamRegistry.evict('ann', 'a')
  goOn()
  t.equal((await ann!).status, 204, 'an EventSource stops for good')
  t.equal(await evicted, 1)
  for (const client of [await other!, await bob!]) t.equal(client.status, 200)
  t.strictSame(streams.map(({ scopeKey, tabId }) => [scopeKey, tabId]).sort(), [['ann', 'b'], ['bob', 'a']])
  t.equal(await streamRegistry.evict('ann'), 1)
  for (const client of [await other!, await bob!]) client.leave()
})

t.test('an eviction between the call of startStream and the end of the predecessor leaves no stream', async t => {
  const app = await buildApp(t)
  const { streamRegistry } = app.fastify
  const evictions: Array<Promise<number>> = []
  let starts = 0
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    const starting = reply.startStream('ann')
    if (++starts === 2) evictions.push(streamRegistry.evict('ann'))
    ;(await starting).keepAlive()
  })
  await app.listen()
  const first = await connect(app.url(withSignals('/stream', { tabId: 'a' })))
  const second = await connect(app.url(withSignals('/stream', { tabId: 'a' })))
  t.equal(second.status, 204)
  t.equal(await first.ended, 'clean')
  t.strictSame(await Promise.all(evictions), [2])
  t.equal(await streamRegistry.count('ann'), 0)
})
