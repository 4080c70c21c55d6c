// Rules 1 and 5: before a successor starts, the old signal has aborted, the old handler has returned, and the old cleanups have settled.
import { EventEmitter, on, once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { buildApp, LEVELS, withSignals } from '../kit/app.ts'
import { connect } from '../kit/client.ts'
import { isQuickRun } from '../kit/programs.ts'

const path = withSignals('/stream', { tabId: 'a' })

t.test('a successor starts after the old loop, its finally block and its onClose callbacks have ended', async t => {
  const app = await buildApp(t)
  const orders = new EventEmitter()
  const order: string[] = []
  let count = 0
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    const me = ++count
    const stream = await reply.startStream('ann')
    order.push(`${me} opened`)
    stream.onClose(async reason => {
      await sleep(30)
      order.push(`${me} cleaned up: ${reason}`)
    })
    try {
      for await (const [data] of on(orders, 'change', { signal: stream.signal })) await stream.send({ event: 'order', data })
    } finally {
      await sleep(10)
      order.push(`${me} handler over`)
    }
  })
  await app.listen()
  const first = await connect(app.url(path))
  orders.emit('change', { id: 1 })
  t.strictSame(await first.event(1), { event: 'order', data: '{"id":1}', id: undefined })
  const second = await connect(app.url(path))
  t.strictSame([order[0], order.slice(1, -1).sort(), order.at(-1)], ['1 opened', ['1 cleaned up: replaced', '1 handler over'], '2 opened'])
  t.equal(orders.listenerCount('change'), 1, 'one subscription is left')
  orders.emit('change', { id: 2 })
  t.equal((await second.event(1)).data, '{"id":2}')
  t.equal(first.events.length, 2, 'the old stream got its own event and the farewell, and nothing else')
})

t.test('a cleanup that fails causes a warning, and delays no stream', async t => {
  const app = await buildApp(t)
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    const stream = await reply.startStream('ann')
    stream.keepAlive()
    stream.onClose(() => { throw new Error('thrown') })
    stream.onClose(async () => { throw new Error('rejected') })
  })
  await app.listen()
  await connect(app.url(path))
  await connect(app.url(path))
  const warnings = app.log.filter(line => line.level === LEVELS.warn)
  t.match(warnings.map(line => (line.err as Error).message).sort(), ['rejected', 'thrown'])
  t.match(warnings[0], { route: 'GET /stream', msg: 'an onClose callback failed' })
})

t.test('a cleanup that is registered after the stream has begun to end runs at once, and is awaited', async t => {
  const app = await buildApp(t)
  const order: string[] = []
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    const stream = await reply.startStream('ann')
    order.push('opened')
    await once(stream.signal, 'abort')
    stream.onClose(async reason => {
      await sleep(20)
      order.push(`late cleanup: ${reason}`)
    })
  })
  await app.listen()
  await connect(app.url(path))
  await connect(app.url(path))
  t.strictSame(order, ['opened', 'late cleanup: replaced', 'opened'])
})

const STREAMS = isQuickRun ? 500 : 2_000

t.test(`fastify.close() ends ${STREAMS} live streams side by side, not one after another, and resolves sooner than they were opened, with nobody's handler still running`, async t => {
  // Each cleanup waits until all cleanups have begun, so a close that ends one stream after another never resolves.
  const app = await buildApp(t, { logLevel: 'warn', replaceTimeout: 3_600_000, fastify: { pluginTimeout: 0 } })
  const orders = new EventEmitter().setMaxListeners(0)
  let running = 0
  let begun = 0
  let cleanups = 0
  let letGo = () => {}
  const allBegun = new Promise<void>(resolve => { letGo = resolve })
  app.fastify.get('/stream', { sse: 'only' }, async (request, reply) => {
    running++
    try {
      const stream = await reply.startStream('ann')
      stream.onClose(async () => {
        if (++begun === STREAMS) letGo()
        await allBegun
        await sleep(20)
        cleanups++
      })
      for await (const [data] of on(orders, 'change', { signal: stream.signal })) await stream.send({ data })
    } finally {
      await sleep(20)
      running--
    }
  })
  await app.listen()
  const clients = []
  const opening = performance.now()
  for (let batch = 0; batch < STREAMS / 100; batch++) {
    clients.push(...await Promise.all(Array.from({ length: 100 }, (_, i) => connect(app.url(withSignals('/stream', { tabId: `${batch} ${i}` }))))))
  }
  t.equal(app.fastify.streamRegistry.size, STREAMS)

  const closing = performance.now()
  await app.fastify.close()
  const closed = performance.now()
  t.ok(closed - closing < closing - opening, `opened in ${Math.round(closing - opening)} ms, and closed in ${Math.round(closed - closing)} ms`)
  t.equal(running, 0)
  t.equal(cleanups, STREAMS)
  t.ok((await Promise.all(clients.map(client => client.ended))).every(ending => ending === 'broken'), 'the clients see a broken connection, and reconnect')
})
