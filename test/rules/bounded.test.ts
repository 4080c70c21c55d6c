// Rule 3: every startStream settles within replaceTimeout, and a dead peer costs its successor no more than closeGrace.
import t from 'tap'
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises'
import { buildApp, holdUp, LEVELS, streamRoute, withSignals } from '../kit/app.ts'
import { connect } from '../kit/client.ts'
import { cableProxy } from '../kit/cable-proxy.ts'

const path = withSignals('/stream/ann', { tabId: 'a' })

t.test('a half-open peer: the successor starts within closeGrace + 200 ms, and the old handler is over', async t => {
  const closeGrace = 300
  const app = await buildApp(t, { closeGrace })
  const order: string[] = []
  let full: () => void
  const buffersFull = new Promise<void>(resolve => { full = resolve })
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    const stream = await reply.startStream('ann')
    order.push('opened')
    try {
      for (;;) {
        // Half a MiB at a time, until the kernel's buffers on both sides of the proxy are full and a send waits.
        const waiting = setTimeout(full, 300)
        await stream.send('x'.repeat(512 * 1024))
        clearTimeout(waiting)
        await turn()
      }
    } finally {
      order.push('handler over')
    }
  })
  await app.listen()
  const proxy = await cableProxy(t, app.port())
  await connect(proxy.url(withSignals('/stream', { tabId: 'a' })))
  proxy.pullCable()
  await buffersFull

  const before = performance.now()
  const second = await connect(proxy.url(withSignals('/stream', { tabId: 'a' })))
  const waited = performance.now() - before

  t.strictSame(order, ['opened', 'handler over', 'opened'])
  t.ok(waited < closeGrace + 200, `waited ${Math.round(waited)} ms`)
  t.equal(app.fastify.streamRegistry.size, 1)
  second.leave()
})

t.test('a handler that ignores its signal costs its successor replaceTimeout, and a warning names its route', async t => {
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
  t.ok(performance.now() - before >= 195, 'it was waited for')
  t.equal(await first.ended, 'clean', 'the client was told at once all the same')
  const [warning, ...others] = app.log.filter(line => line.level === LEVELS.warn)
  t.match(warning, { route: 'GET /deaf/:scope', tabId: 'a', scope: '"ann"', msg: /GET \/deaf\/:scope did not end within replaceTimeout.*Still running: the handler/ })
  t.equal(others.length, 0)
  t.equal(app.fastify.streamRegistry.size, 2, 'the one that hangs is still listed')
  letGo()
})

t.test('of a cleanup that hangs the warning says so, and each successor that comes meanwhile has its own bound', async t => {
  const app = await buildApp(t, { replaceTimeout: 300 })
  const streams = streamRoute(app)
  await app.listen()
  await connect(app.url(path))
  const letGo = holdUp(streams[0]!)

  const before = performance.now()
  const second = connect(app.url(path))
  await sleep(150)
  const third = await connect(app.url(path))
  // The second gave up waiting at 300 ms, and so did whoever waited behind it.
  t.ok(performance.now() - before < 150 + 300, 'a newcomer does not start the wait of those before it anew')
  t.equal((await second).status, 204)
  t.equal(third.status, 200)
  t.match(app.log.filter(line => line.level === LEVELS.warn), [{ msg: /Still running: 1 onClose callback$/ }])
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

t.test('a client that does not take the end within replaceTimeout is named too, if closeGrace is the longer', async t => {
  const app = await buildApp(t, { replaceTimeout: 200, closeGrace: 60_000 })
  const streams = streamRoute(app)
  await app.listen()
  const proxy = await cableProxy(t, app.port())
  await connect(proxy.url(path))
  proxy.pullCable()
  while (await Promise.race([streams[0]!.send('x'.repeat(1024 * 1024)).then(() => true), sleep(200, false)])) { /* until it waits */ }
  await connect(proxy.url(path))
  t.match(app.log.filter(line => line.level === LEVELS.warn), [{ msg: /Still running: the response/ }])
  t.equal(await streams[0]!.closed, 'replaced')
})
