// Redis behind a network that fails: no stream is lost, no request fails, and duplicates opened in the meantime are ended by themselves.
import diagnostics from 'node:diagnostics_channel'
import { setTimeout as pause } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { redisCluster } from '../../lib/redis/index.ts'
import { buildApp, LEVELS, streamRoute, withSignals, type AppOptions } from '../kit/app.ts'
import { connect } from '../kit/client.ts'
import { redisProxy } from '../kit/redis-proxy.ts'
import { redisOptions, redisServer } from '../kit/redis.ts'

/** Two applications with the same Redis. Each application has a separate proxy to Redis. */
async function build (t: Test, options: AppOptions = {}) {
  const server = await redisServer(t)
  const start = async () => {
    const proxy = await redisProxy(t, server.port)
    const redis = server.client({ port: proxy.port })
    const app = await buildApp(t, { cluster: redisCluster({ redis }), ...options })
    const streams = streamRoute(app)
    await app.listen()
    const open = (tab: string) => connect(app.url(withSignals('/stream/ann', { tabId: tab })))
    const warnings = () => app.log.filter(({ level }) => level === LEVELS.warn).map(({ msg }) => msg)
    return { app, streams, proxy, open, warnings, registry: app.fastify.streamRegistry }
  }
  return { server, one: await start(), two: await start() }
}

const AWAY = /^Redis is away/

/** The most times that `heals` checks the condition, 10 ms apart: five seconds, and more on a slow machine, where each pause takes longer. */
const CHECKS = 500

/** Resolves to the number of checks until `condition` was true. */
async function heals (condition: () => boolean): Promise<number> {
  let checks = 0
  while (!condition() && checks++ < CHECKS) await pause(10)
  return checks
}

t.test('Redis is killed and restarts empty: no stream is lost, no request fails, duplicates end within 5 s, and there is one warning', redisOptions, async t => {
  const { server, one, two } = await build(t)
  const states: string[] = []
  const onState = (event: unknown) => { states.push((event as { state: string }).state) }
  diagnostics.subscribe('octa-star:cluster', onState)
  t.teardown(() => diagnostics.unsubscribe('octa-star:cluster', onState))
  const [before] = await Promise.all([one.open('quiet'), two.open('other')])
  await one.open('a')
  await server.kill()

  const heads = []
  for (const { open } of [two, one, two, two, one, two]) heads.push(await open('a'))
  t.ok(heads.every(({ status }) => status === 200), 'no request fails')
  t.equal(one.streams.filter(({ signal }) => !signal.aborted).length, 2, 'deduplicated within a process')
  t.equal(two.streams.filter(({ signal }) => !signal.aborted).length, 2)
  t.equal(await one.registry.count('ann'), 2, 'without Redis a process counts only its own streams')
  await t.rejects(one.registry.evict('bob'), { code: 'FST_ERR_OCTA_STAR_EVICT', statusCode: 503 }, 'an eviction that Redis cannot confirm')

  await server.start()
  const took = await heals(() => one.registry.size + two.registry.size === 3)
  t.ok(took < CHECKS, `${took} checks`)
  t.equal(two.streams.at(-1)!.signal.aborted, false, 'the newest is left')
  t.equal(await one.streams.at(-1)!.closed, 'replaced')
  t.strictSame(before.events, [], 'the stream of the other tab was not touched')
  t.equal(one.streams[0]!.signal.aborted, false)
  while (await one.registry.count('ann') !== 3) await pause(10)
  t.match(one.warnings(), [AWAY])
  t.match(two.warnings(), [AWAY])
  t.strictSame(states.sort(), ['away', 'away', 'back', 'back'])
})

for (const [fault, broken] of [['cut', 'resets'], ['freeze', 'answers nothing']] as const) {
  t.test(`pub/sub is ${broken} while commands pass: the newcomer starts, and one stream is left within 5 s of the return of pub/sub`, redisOptions, async t => {
    const { one, two } = await build(t, { replaceTimeout: 1_000 })
    await one.open('a')
    one.proxy[fault]('subscribers')
    t.equal((await two.open('a')).status, 200)
    one.proxy[fault === 'cut' ? 'mend' : 'thaw']()
    const took = await heals(() => one.registry.size === 0)
    t.ok(took < CHECKS, `${took} checks`)
    t.equal(two.streams[0]!.signal.aborted, false)
  })

  t.test(`commands ${fault === 'cut' ? 'are reset' : 'get no answer'} while pub/sub passes: the newcomer starts, and one stream is left within 5 s of the return of Redis`, redisOptions, async t => {
    const { one, two } = await build(t, { replaceTimeout: 1_000 })
    await one.open('a')
    two.proxy[fault]('commands')
    t.equal((await two.open('a')).status, 200)
    t.equal((await two.open('a')).status, 200)
    t.equal(one.registry.size + two.registry.size, 2, 'deduplicated within the process')
    two.proxy[fault === 'cut' ? 'mend' : 'thaw']()
    const took = await heals(() => one.registry.size === 0)
    t.ok(took < CHECKS, `${took} checks`)
    t.equal(two.streams.at(-1)!.signal.aborted, false)
    t.match(two.warnings(), [AWAY], 'one warning in total, whatever the number of requests')
  })
}

t.test('a subscription that receives nothing is made again', redisOptions, async t => {
  const { one, two } = await build(t, { replaceTimeout: 1_000 })
  await one.open('a')
  one.proxy.freeze('subscribers')
  await two.open('a')
  // The frozen connection stays frozen. The process does not receive its own beats, and so notices that the subscription is deaf.
  const took = await heals(() => one.registry.size === 0)
  t.ok(took < CHECKS, `${took} checks`)
  await one.open('a')
  t.equal(await two.streams[0]!.closed, 'replaced')
})

t.test('with 500 ms of latency replacements work, and no process is taken to be away', redisOptions, async t => {
  const { one, two } = await build(t)
  one.proxy.delay = two.proxy.delay = 250
  await one.open('a')
  await two.open('a')
  t.equal(await one.streams[0]!.closed, 'replaced')
  await one.open('a')
  t.equal(await two.streams[0]!.closed, 'replaced')
  t.strictSame([...one.warnings(), ...two.warnings()], [])
})

for (const lost of ['end replaced', 'gone ']) {
  t.test(`a lost message '${lost}' is sent again`, redisOptions, async t => {
    // Longer than the time limit of this file: a test that waits for replaceTimeout fails.
    const { one, two } = await build(t, { replaceTimeout: 3_600_000 })
    const first = await one.open('a')
    one.proxy.loseNext(lost)
    two.proxy.loseNext(lost)
    await two.open('a')
    await first.ended
    t.strictSame([...one.warnings(), ...two.warnings()], [])
  })
}

t.test('a claim that reaches Redis late does not replace a newer claim', redisOptions, async t => {
  const { one, two } = await build(t, { replaceTimeout: 1_000 })
  await one.open('b')
  await two.open('b')
  one.proxy.freeze('commands')
  await one.open('a')
  await two.open('a')
  one.proxy.thaw()
  const took = await heals(() => one.registry.size === 0)
  t.ok(took < CHECKS, `${took} checks`)
  t.strictSame(two.streams.map(({ signal }) => signal.aborted), [false, false])
})

// Redis executed the command seconds after the call had returned, and ended streams that had started in the meantime. Users who had
// signed in again lost their streams.
t.test('an eviction that Redis executes late ends no newer stream, and rejects', redisOptions, async t => {
  const { one, two } = await build(t, { replaceTimeout: 4_000 })
  await two.open('a')
  await one.open('b')
  one.proxy.freeze('commands')
  await t.rejects(one.registry.evict('ann'), { code: 'FST_ERR_OCTA_STAR_EVICT' }, 'Redis does not answer')
  t.equal(one.streams[0]!.signal.aborted, true, 'the streams of the process itself have ended')
  await two.open('c')
  one.proxy.thaw()
  // Redis executes the commands of a connection in order.
  while (await one.registry.count('ann') !== 2) await pause(10)
  t.strictSame(two.streams.map(({ signal }) => signal.aborted), [false, false])
  t.equal(await one.registry.evict('ann'), 2, 'the next attempt reaches both processes')
})

t.test('a process that starts while Redis is away warns once, and joins when Redis is back', redisOptions, async t => {
  const { server, one, two } = await build(t)
  await server.kill()
  const app = await buildApp(t, { replaceTimeout: 500, cluster: redisCluster({ redis: server.client() }) })
  streamRoute(app)
  await app.listen()
  await connect(app.url(withSignals('/stream/ann', { tabId: 'a' })))
  t.match(app.log.filter(({ level }) => level === LEVELS.warn).map(({ msg }) => msg), [AWAY])
  await server.start()
  while (await two.registry.count('ann') !== 1) await pause(10)
  await one.open('a')
  await heals(() => app.fastify.streamRegistry.size === 0)
  t.equal(one.registry.size, 1)
})

for (const [fault, mend] of [['cut', 'mend'], ['freeze', 'thaw']] as const) {
  t.test(`a claim that ended while Redis was away (${fault}) is removed from Redis when Redis is back`, redisOptions, async t => {
    const { server, one, two } = await build(t, { replaceTimeout: 1_000 })
    const client = await one.open('a')
    one.proxy[fault]()
    client.leave()
    await heals(() => one.registry.size === 0)
    t.equal(await two.registry.count('ann'), 1)
    await heals(() => one.warnings().length > 0)
    one.proxy[mend]()
    while (await two.registry.count('ann') !== 0) await pause(10)
    const keys = await server.client().keys('*')
    t.strictSame(keys.filter(key => !/:member:|:members$/.test(key)), [])
  })
}

t.test('a process that cannot hear acknowledgements does not wait for them', redisOptions, async t => {
  const { server, one, two } = await build(t, { replaceTimeout: 60_000 })
  await one.open('a')
  const admin = server.client()
  const subscriptions = async () => String(await admin.client('LIST')).split('\n').filter(line => line.includes('sub=1')).length
  two.proxy.cut('subscribers')
  while (await subscriptions() > 1) await pause(10)
  t.equal((await two.open('a')).status, 200)
  two.proxy.mend()
  await one.streams[0]!.closed
})
