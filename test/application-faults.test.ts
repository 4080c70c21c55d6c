// Faults of the application around its stream: handlers that throw or do not wait, and cleanups that throw or start another stream.
import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import type { CloseReason, Stream } from '../lib/index.ts'
import { buildApp, holdUp, LEVELS, streamRoute, withSignals, type App, streamsOf } from './kit/app.ts'
import { connect } from './kit/client.ts'
import { watchUnhandled } from './kit/unhandled.ts'

const path = withSignals('/stream/ann', { tabId: 'a' })
const warnings = (app: App) => app.log.filter(line => line.level === LEVELS.warn)
const errors = (app: App) => app.log.filter(line => line.level >= LEVELS.error)

t.test('the application\'s error handler answers if a handler throws anything before the start, and no holder is touched', async t => {
  const app = await buildApp(t, { errorsExpected: true })
  app.fastify.setErrorHandler((error: Error, _request, reply) => reply.code(418).send(`handled: ${error.message}`))
  app.fastify.get('/sync', { sse: 'only' }, () => { throw new Error('sync') })
  app.fastify.get('/async', { sse: 'only' }, async () => { throw new Error('async') })
  app.fastify.get('/sent', { sse: 'only' }, (_request, reply) => { reply.send(new Error('sent')) })
  const streams = streamRoute(app)
  await app.listen()
  await connect(app.url(path))
  for (const style of ['sync', 'async', 'sent']) {
    const client = await connect(app.url(withSignals(`/${style}`, { tabId: 'a' })))
    await client.ended
    t.match(client, { status: 418, text: `handled: ${style}` })
  }
  t.notOk(streams[0]!.signal.aborted)
  t.equal(app.fastify.streamRegistry.size, 1)
})

t.test('a start that is refused for its scope key may be tried again with a valid scope key, and no holder is touched', async t => {
  const app = await buildApp(t)
  const refused: string[] = []
  app.fastify.get('/signed-out', { sse: 'only' }, async (_request, reply) => {
    const stream = await reply.startStream(undefined as never).catch(error => {
      refused.push(error.code)
      return reply.startStream('guest')
    })
    stream.keepAlive()
  })
  const streams = streamRoute(app)
  await app.listen()
  await connect(app.url(path))
  t.equal((await connect(app.url(withSignals('/signed-out', { tabId: 'a' })))).status, 200)
  t.strictSame(refused, ['FST_ERR_OCTA_STAR_SCOPE_KEY'])
  t.strictSame(streamsOf(app.fastify).map(stream => stream.scopeKey), ['ann', 'guest'])
  t.notOk(streams[0]!.signal.aborted)
})

t.test('a handler that catches the refusal of a full scope may answer without a stream', async t => {
  const app = await buildApp(t, { maxStreamsPerScope: 1, onLimit: 'reject' })
  app.fastify.get('/or-poll', { sse: 'only' }, async (_request, reply) => {
    try {
      const stream = await reply.startStream('ann')
      stream.keepAlive()
    } catch {
      return { poll: true }
    }
  })
  await app.listen()
  await connect(app.url(withSignals('/or-poll', { tabId: 'a' })))
  const client = await connect(app.url(withSignals('/or-poll', { tabId: 'b' })))
  await client.ended
  t.match(client, { status: 200, text: '{"poll":true}' })
  t.equal(app.fastify.streamRegistry.size, 1)
})

t.test('if a handler catches that it was superseded and answers anyway, the client has still received a 204', async t => {
  const app = await buildApp(t)
  let letGo = () => {}
  app.fastify.get('/stubborn', { sse: 'only' }, async (_request, reply) => {
    await reply.startStream('ann').catch(() => {})
    return 'an answer that comes too late'
  })
  const streams = streamRoute(app, '/stream/:scope', stream => { letGo = holdUp(stream) })
  await app.listen()
  await connect(app.url(path))
  const stubborn = connect(app.url(withSignals('/stubborn', { tabId: 'a' })))
  while (!streams[0]!.signal.aborted) await turn()
  const third = connect(app.url(path))
  const { status, ended } = await stubborn
  t.equal(status, 204)
  await ended
  letGo()
  t.equal((await third).status, 200)
  t.strictSame([...app.fastify.streamRegistry], [streams[1]])
  letGo()
})

for (const thrown of [new Error('a fault'), null, undefined, 'a string']) {
  t.test(`a stream whose handler throws ${thrown} after the start has failed, one error is logged, and the next stream starts`, async t => {
    const app = await buildApp(t, { errorsExpected: true })
    const reasons: CloseReason[] = []
    app.fastify.get('/stream', { sse: 'only' }, (_request, reply) => reply.startStream('ann').then(stream => {
      stream.onClose(reason => { reasons.push(reason) })
      throw thrown
    }))
    streamRoute(app)
    await app.listen()
    t.equal(await (await connect(app.url(withSignals('/stream', { tabId: 'a' })))).ended, 'broken')
    t.strictSame(reasons, ['failed'])
    t.equal((await connect(app.url(path))).status, 200)
    t.equal(errors(app).length, 1)
    t.equal(app.fastify.streamRegistry.size, 1)
  })
}

t.test('if a handler throws in a finally block because its stream ends, the error is logged, the client gets its farewell, and the next stream starts', async t => {
  const app = await buildApp(t, { errorsExpected: true })
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    const stream = await reply.startStream('ann')
    try {
      await new Promise((_resolve, reject) => stream.signal.addEventListener('abort', () => reject(stream.signal.reason)))
    } finally {
      // eslint-disable-next-line no-unsafe-finally
      throw new Error('a fault in a finally')
    }
  })
  streamRoute(app)
  await app.listen()
  const first = await connect(app.url(withSignals('/stream', { tabId: 'a' })))
  t.equal((await connect(app.url(path))).status, 200)
  t.equal(await first.ended, 'clean')
  t.match(first.events, [{ data: 'replaced' }])
  t.match(errors(app), [{ err: { message: 'a fault in a finally' } }])
})

t.test('a handler may be a plain function that returns the promise, and if the function does not return the promise, the stream ends with the function', async t => {
  const unhandled = watchUnhandled(t)
  const app = await buildApp(t)
  app.fastify.get('/returned', { sse: 'only' }, (_request, reply) => reply.startStream('ann').then(stream => stream.keepAlive()))
  app.fastify.get('/forgotten', { sse: 'only' }, (_request, reply) => { reply.startStream('bob').then(stream => stream.keepAlive()) })
  await app.listen()
  const returned = await connect(app.url('/returned'))
  t.equal(await (await connect(app.url('/forgotten'))).ended, 'clean')
  t.strictSame(streamsOf(app.fastify).map(stream => stream.scopeKey), ['ann'])
  t.strictSame(unhandled, [])
  returned.leave()
})

t.test('a reply.send after the start is refused, with a warning, and the stream goes on', async t => {
  const app = await buildApp(t)
  let stream: Stream
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    stream = await reply.startStream('ann')
    stream.keepAlive()
    reply.send('an answer')
  })
  await app.listen()
  const client = await connect(app.url('/stream'))
  await stream!.send('goes on')
  t.equal((await client.event(1)).data, 'goes on')
  t.match(warnings(app), [{ err: { code: 'FST_ERR_REP_ALREADY_SENT' } }])
})

t.test('an onClose that throws or rejects is logged with its route, stops no other onClose, and delays no successor', async t => {
  const app = await buildApp(t)
  const ran: CloseReason[] = []
  const streams = streamRoute(app, '/stream/:scope', stream => {
    stream.onClose(() => { throw new Error('thrown') })
    stream.onClose(async () => { throw new Error('rejected') })
    stream.onClose(reason => { ran.push(reason) })
  })
  await app.listen()
  const first = await connect(app.url(path))
  await connect(app.url(path))
  t.equal(await first.ended, 'clean')
  t.equal(await streams[0]!.gone, 'replaced')
  t.strictSame(ran, ['replaced'])
  const about = { msg: 'an onClose callback failed', streamId: streams[0]!.id, route: 'GET /stream/:scope' }
  t.match(warnings(app), [{ ...about, err: { message: 'thrown' } }, { ...about, err: { message: 'rejected' } }])
})

t.test('if an onClose makes the tab open another stream, that stream is the newest, and still waits for the cleanup', async t => {
  const app = await buildApp(t)
  let letGo = () => {}
  let third: ReturnType<typeof connect>
  const streams = streamRoute(app, '/stream/:scope', stream => {
    if (streams.length > 1) return
    stream.onClose(() => { third = connect(app.url(path)) })
    letGo = holdUp(stream)
  })
  await app.listen()
  await connect(app.url(path))
  t.equal((await connect(app.url(path))).status, 204, 'the second stream is superseded by the stream that its own start caused')
  t.equal(streams.length, 1, 'the third waits')
  letGo()
  t.equal((await third!).status, 200)
  t.strictSame([...app.fastify.streamRegistry], [streams[1]])
})

t.test('if an onClose and a starting stream wait for each other, both are held up for replaceTimeout, and no longer', async t => {
  const app = await buildApp(t, { replaceTimeout: 200 })
  const streams = streamRoute(app, '/stream/:scope', stream => {
    if (streams.length === 1) stream.onClose(() => connect(app.url(path)))
  })
  await app.listen()
  await connect(app.url(path))
  streams[0]!.close()
  t.equal(await streams[0]!.gone, 'finished', 'given up, so that an onClose that awaits the end goes on')
  while (streams.length < 2) await turn()
  t.match(warnings(app), [{ msg: /Still running: onClose callbacks \(1\)$/ }])
  t.strictSame([...app.fastify.streamRegistry], [streams[1]])
})

t.test('an onClose that evicts its own scope ends the other streams once, and awaiting that eviction takes replaceTimeout at most', async t => {
  const app = await buildApp(t, { replaceTimeout: 200 })
  const { streamRegistry } = app.fastify
  const reasons: CloseReason[] = []
  const evicted: number[] = []
  streamRoute(app, '/stream/:scope', stream => {
    stream.onClose(reason => { reasons.push(reason) })
    stream.onClose(async () => { evicted.push(await streamRegistry.evict('ann')) })
  })
  await app.listen()
  const clients = [await connect(app.url(path)), await connect(app.url(withSignals('/stream/ann', { tabId: 'b' })))]
  t.equal(await streamRegistry.evict('ann'), 2)
  for (const client of clients) t.equal(await client.ended, 'clean')
  t.strictSame(reasons, ['evicted', 'evicted'])
  while (evicted.length < 2) await turn()
  t.strictSame(evicted, [2, 2])
  while (streamRegistry.size > 0) await turn()
})

t.test('a start that is refused before the handler awaits the start is no unhandled rejection', async t => {
  // With `const starting = reply.startStream(...)`, a query, and `await starting`, a client that left during the query ended the process.
  const unhandled = watchUnhandled(t)
  const app = await buildApp(t)
  const outcomes: string[] = []
  let goOn = () => {}
  app.fastify.get('/late', { sse: 'only' }, async (_request, reply) => {
    const starting = reply.startStream('ann')
    await new Promise<void>(resolve => { goOn = resolve })
    await starting.catch(error => outcomes.push(error.reason))
  })
  const streams = streamRoute(app)
  await app.listen()
  await connect(app.url(path))
  const letGo = holdUp(streams[0]!)
  const late = connect(app.url(withSignals('/late', { tabId: 'a' })))
  while (!streams[0]!.signal.aborted) await turn()
  const third = connect(app.url(path))
  t.equal((await late).status, 204)
  goOn()
  letGo()
  t.equal((await third).status, 200)
  while (outcomes.length === 0) await turn()
  t.strictSame([outcomes, unhandled], [['replaced'], []])
})

/** Requests that a client can send, for which `startStream` fails before there is a stream: the path, the headers, and the status of the answer. */
const refused: Record<string, [path: string, headers: Record<string, string>, status: number]> = {
  'a client that has got the farewell': [path, { 'last-event-id': `octa-star-closed:replaced:${Date.now() + 60_000}` }, 204],
  'a tab id of a wrong type': [withSignals('/stream/ann', { tabId: 5 }), {}, 400],
  'signals that are not JSON': ['/stream/ann?datastar=%7B', {}, 400],
  'a client that does not accept a stream': [path, { accept: 'text/html' }, 406],
  'a page of another site': [path, { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate' }, 403],
  'a full scope': [withSignals('/stream/full', { tabId: 'a' }), {}, 429]
}

t.test('a start that is refused is no unhandled rejection, whether the handler awaits the start later or never', async t => {
  const unhandled = watchUnhandled(t)
  const app = await buildApp(t, { maxStreamsPerScope: 1, onLimit: 'reject' })
  let isLate = true
  app.fastify.get<{ Params: { scope: string } }>('/stream/:scope', { sse: 'dual' }, async (request, reply) => {
    const starting = reply.startStream(request.params.scope)
    if (!isLate) return
    for (let i = 0; i < 3; i++) await turn()
    ;(await starting).keepAlive()
  })
  app.fastify.get('/first', { sse: 'only' }, async (_request, reply) => { (await reply.startStream('full')).keepAlive() })
  await app.listen()
  const first = await connect(app.url('/first'))
  for (const [name, [path, headers, status]] of Object.entries(refused)) t.equal((await connect(app.url(path), { headers })).status, status, name)
  t.equal((await connect(app.url(path), { method: 'HEAD' })).status, 200, 'HEAD')
  isLate = false
  for (const [path, headers] of Object.values(refused)) await (await connect(app.url(path), { headers })).ended
  t.strictSame(unhandled, [])
  t.strictSame(warnings(app), [])
  first.leave()
})

t.test('a mistake of the application in startStream that nobody awaits is a warning, and is no unhandled rejection', async t => {
  const unhandled = watchUnhandled(t)
  const app = await buildApp(t)
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => { reply.startStream(undefined as never) })
  await app.listen()
  await (await connect(app.url('/stream'))).ended
  t.match(warnings(app), [{ msg: 'startStream failed in the handler of GET /stream, and the handler neither threw the error nor returned an answer', route: 'GET /stream', err: { code: 'FST_ERR_OCTA_STAR_SCOPE_KEY' } }])
  t.strictSame(unhandled, [])
})

t.test('what a handler answers after startStream has failed is the answer', async t => {
  const app = await buildApp(t)
  // The hook ends later than the handler.
  app.fastify.addHook('onSend', async () => { await turn() })
  app.fastify.get('/catch', { sse: 'only' }, async (_request, reply) => {
    await reply.startStream(undefined as never).catch(() => reply.code(418).send('mine'))
  })
  await app.listen()
  const client = await connect(app.url('/catch'))
  await client.ended
  t.match(client, { status: 418, text: 'mine' })
})

t.test('a start in an error handler is refused, so that no stream waits for a handler that is over', async t => {
  const app = await buildApp(t, { errorsExpected: true })
  let refusal: unknown
  app.fastify.get('/fault', {
    sse: 'only',
    async errorHandler (_error, _request, reply) {
      await reply.startStream('ann').catch(error => { refusal = error })
      reply.code(418).send()
    }
  }, async () => { throw new Error('a fault') })
  const unhandled = watchUnhandled(t)
  app.fastify.get('/late', {
    sse: 'only',
    errorHandler (_error, _request, reply) {
      reply.startStream('ann')
      reply.code(418).send()
    }
  }, async () => { throw new Error('a fault') })
  app.fastify.get('/returned', {
    sse: 'only',
    async errorHandler (_error, _request, reply) {
      await t.rejects(reply.startStream('ann'), { code: 'FST_ERR_OCTA_STAR_NOT_IN_HANDLER' })
      reply.code(418).send()
    }
  }, async () => new Error('a fault'))
  await app.listen()
  for (const path of ['/fault', '/late', '/returned']) t.equal((await connect(app.url(path))).status, 418)
  await turn()
  t.strictSame(unhandled, [])
  t.match(refusal, { code: 'FST_ERR_OCTA_STAR_NOT_IN_HANDLER', message: 'startStream was called outside the handler of GET /fault, in a hook or in an error handler. Call startStream in the handler' })
  t.equal(await app.fastify.streamRegistry.count('ann'), 0)
})

t.test('an option tabId that is an asynchronous function is answered 400, and a rejection of the function is no unhandled rejection', async t => {
  const unhandled = watchUnhandled(t)
  const tabId = async () => { throw new Error('a fault') }
  const app = await buildApp(t, { tabId: tabId as never })
  streamRoute(app)
  await app.listen()
  t.equal((await connect(app.url('/stream/ann'))).status, 400)
  await turn()
  t.strictSame(unhandled, [])
})
