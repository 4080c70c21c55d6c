// Rule 3: every startStream settles within replaceTimeout, and a dead peer costs its successor no more than closeGrace.
import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import FakeTimers from '@sinonjs/fake-timers'
import t, { type Test } from 'tap'
import { buildApp, holdUp, LEVELS, streamRoute, withSignals } from '../kit/app.ts'
import { connect } from '../kit/client.ts'
import { FLOOD } from '../kit/flood.ts'
import { cableProxy } from '../kit/cable-proxy.ts'

const path = withSignals('/stream/ann', { tabId: 'a' })

/** Replaces the plugin's timers with a clock that only `pass` moves. Sockets still work in real time. */
function stopTime (t: Test) {
  const clock = FakeTimers.install({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
  t.teardown(() => clock.uninstall())
  return {
    async pass (milliseconds: number) {
      // Handles pending events before the timers fire, and the consequences of the timers after.
      for (let i = 0; i < 20; i++) await turn()
      clock.tick(milliseconds)
      for (let i = 0; i < 20; i++) await turn()
    }
  }
}

t.test('if a peer is half-open, the successor starts exactly when closeGrace is over, and the old handler is over', async t => {
  const closeGrace = 300
  const app = await buildApp(t, { closeGrace, replaceTimeout: 10 * closeGrace })
  const order: string[] = []
  let flood = () => {}
  let signal!: AbortSignal
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    const stream = await reply.startStream('ann')
    order.push('opened')
    if (order.length > 1) return stream.keepAlive()
    signal = stream.signal
    try {
      await new Promise<void>(resolve => { flood = resolve })
      await stream.send(FLOOD)
      order.push('the peer has taken everything')
    } finally {
      order.push('handler over')
    }
  })
  await app.listen()
  const proxy = await cableProxy(t, app.port())
  await connect(proxy.url(withSignals('/stream', { tabId: 'a' })))
  proxy.pullCable()
  flood()

  const time = stopTime(t)
  const second = connect(proxy.url(withSignals('/stream', { tabId: 'a' })))
  if (!signal.aborted) await once(signal, 'abort')
  await time.pass(closeGrace - 1)
  t.strictSame(order, ['opened', 'handler over'])
  await time.pass(1)
  t.strictSame(order, ['opened', 'handler over', 'opened'])
  // Lets the successor start even if the check above has failed.
  await time.pass(10 * closeGrace)
  const client = await second
  t.equal(app.fastify.streamRegistry.size, 1)
  client.leave()
})

t.test('a handler that ignores its signal delays its successor by replaceTimeout, and a warning names its route', async t => {
  const app = await buildApp(t, { replaceTimeout: 200 })
  let letGo = () => {}
  app.fastify.get('/deaf/:scope', { sse: 'only' }, async (request, reply) => {
    await reply.startStream('ann')
    await new Promise<void>(resolve => { letGo = resolve })
  })
  streamRoute(app)
  await app.listen()
  const first = await connect(app.url(withSignals('/deaf/ann', { tabId: 'a' })))

  const before = performance.now()
  await connect(app.url(path))
  t.ok(performance.now() - before >= 195, 'the successor waited for the handler')
  t.equal(await first.ended, 'clean', 'the client was told at once all the same')
  const [warning, ...others] = app.log.filter(line => line.level === LEVELS.warn)
  t.match(warning, { route: 'GET /deaf/:scope', tabId: 'a', scope: '"ann"', msg: /GET \/deaf\/:scope did not end within replaceTimeout.*Still running: the handler/ })
  t.equal(others.length, 0)
  const { streamRegistry } = app.fastify
  t.strictSame([streamRegistry.size, streamRegistry.givenUp, await streamRegistry.count('ann')], [1, 1, 1], 'the hanging stream was given up')
  letGo()
  while (streamRegistry.givenUp > 0) await turn()
})

t.test('the warning says that a cleanup hangs, and each successor that comes in the meantime has a time limit of its own', async t => {
  const app = await buildApp(t, { replaceTimeout: 300 })
  const streams = streamRoute(app)
  await app.listen()
  await connect(app.url(path))
  const letGo = holdUp(streams[0]!)

  const time = stopTime(t)
  const second = connect(app.url(path))
  await once(streams[0]!.signal, 'abort')
  await time.pass(150)
  const third = connect(app.url(path))
  t.equal((await second).status, 204, 'superseded, because the third request has come')
  // The second request gave up waiting at 300 ms, and so did the third request, which waited behind the second.
  await time.pass(149)
  t.equal(streams.length, 1)
  await time.pass(1)
  t.equal(streams.length, 2, 'a newcomer does not restart the wait of earlier requests')
  await time.pass(300)
  t.equal((await third).status, 200)
  t.match(app.log.filter(line => line.level === LEVELS.warn), [{ msg: /Still running: onClose callbacks \(1\)$/ }])
  letGo()
})

t.test('an eviction resolves within replaceTimeout as well', async t => {
  const app = await buildApp(t, { replaceTimeout: 200 })
  const streams = streamRoute(app)
  await app.listen()
  await connect(app.url(path))
  const letGo = holdUp(streams[0]!)
  t.equal(await app.fastify.streamRegistry.evict('ann'), 1)
  t.equal(app.log.filter(line => line.level === LEVELS.warn).length, 1)
  letGo()
})

t.test('a client that does not take the end within replaceTimeout is named too, if closeGrace is longer', async t => {
  const app = await buildApp(t, { replaceTimeout: 200, closeGrace: 60_000 })
  const streams = streamRoute(app)
  await app.listen()
  const proxy = await cableProxy(t, app.port())
  await connect(proxy.url(path))
  proxy.pullCable()
  streams[0]!.send(FLOOD).catch(() => {})
  await connect(proxy.url(path))
  t.match(app.log.filter(line => line.level === LEVELS.warn), [{ msg: /Still running: the response/ }])
  t.equal(await streams[0]!.closed, 'replaced')
})
