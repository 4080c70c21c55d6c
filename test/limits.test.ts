// The limit of a scope: the cost in time and memory, that the limit holds at every moment, and that a different site cannot exhaust the limit.
import { setImmediate as turn } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { defaults } from '../lib/options.ts'
import { Registry } from '../lib/registry/registry.ts'
import { streamKey } from '../lib/registry/stream-key.ts'
import { buildApp, streamRoute, withSignals, type App } from './kit/app.ts'
import { connect } from './kit/client.ts'
import { pendingStream, startOn } from './kit/fake-stream.ts'
import { memoryLog } from './kit/memory-log.ts'
import { ObedientHolder, PlainHolder } from './kit/plain-holder.ts'

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as () => void

const build = (maxStreamsPerScope: number, onLimit: 'replace-oldest' | 'reject' = 'replace-oldest') =>
  new Registry({ ...defaults, maxStreamsPerScope, replaceTimeout: 2 ** 31 - 1, onLimit }, memoryLog().log)

/** The shortest of the times that `measure` returns in many rounds: other work of the machine can only make a round longer. */
async function leastTimes<K> (kinds: K[], rounds: number, measure: (kind: K) => Promise<number>): Promise<number[]> {
  const least = kinds.map(() => Infinity)
  for (let round = 0; round < rounds; round++) {
    for (const [index, kind] of kinds.entries()) least[index] = Math.min(least[index]!, await measure(kind))
  }
  return least
}

t.test('below the limit of a scope, a start beside 10,000 streams costs at most 1.5 times as much as without a limit, and as in an empty scope', async t => {
  const [unlimited, empty, crowded] = [build(Infinity), build(100_000), build(100_000)]
  for (const registry of [unlimited, crowded]) {
    for (let i = 0; i < 10_000; i++) await registry.replaceAndRegister(streamKey('ann', `other ${i}`), new PlainHolder())
  }
  let tab = 0
  async function time (registry: Registry): Promise<number> {
    const before = performance.now()
    for (let i = 0; i < 200; i++) {
      const holder = new PlainHolder()
      await registry.replaceAndRegister(streamKey('ann', `tab ${tab++}`), holder)
      holder.leave()
      await holder.gone
    }
    return performance.now() - before
  }
  const [withoutLimit, inEmptyScope, inCrowdedScope] = await leastTimes([unlimited, empty, crowded], 60, time) as [number, number, number]
  for (const [name, least] of Object.entries({ withoutLimit, inEmptyScope })) {
    const ratio = inCrowdedScope / least
    t.ok(ratio <= 1.5, `${ratio.toFixed(2)} times as much as ${name}`)
  }
})

t.test('at a limit of 10,000, a request that ends the oldest stream and starts another takes at most 1.5 times as long as without a limit', async t => {
  let tab = 0
  async function crowdedApp (maxStreamsPerScope: number): Promise<App> {
    const app = await buildApp(t, { maxStreamsPerScope, logLevel: 'warn' })
    const { streamRegistry } = app.fastify
    const add = () => streamRegistry.replaceAndRegister(streamKey('ann', `other ${tab++}`), new ObedientHolder())
    for (let i = 0; i < 10_000; i++) await add()
    // The place of each stream that has left is taken at once, so that the scope is full at every request.
    streamRoute(app, '/stream/:scope', stream => { stream.gone.then(() => streamRegistry.size < 10_000 && add()) })
    return await app.listen()
  }
  const apps = [await crowdedApp(Infinity), await crowdedApp(10_000)]
  const [withoutLimit, atLimit] = await leastTimes(apps, 30, async app => {
    const before = performance.now()
    for (let i = 0; i < 20; i++) {
      const client = await connect(app.url(withSignals('/stream/ann', { tabId: `tab ${tab++}` })))
      client.leave()
    }
    return performance.now() - before
  }) as [number, number]
  const ratio = atLimit / withoutLimit
  t.ok(ratio <= 1.5, `${ratio.toFixed(2)} times`)
})

t.test('a start in a full scope costs at most 1.5 times as much at a limit of 100,000 as at a limit of 10,000', async t => {
  let tab = 0
  const start = (registry: Registry) => registry.replaceAndRegister(streamKey('ann', `tab ${tab++}`), new ObedientHolder())
  const registries = [build(10_000), build(100_000)]
  for (const [index, limit] of [10_000, 100_000].entries()) {
    for (let i = 0; i < limit; i++) await start(registries[index]!)
  }
  const [small, large] = await leastTimes(registries, 60, async registry => {
    const before = performance.now()
    for (let i = 0; i < 200; i++) await start(registry)
    return performance.now() - before
  }) as [number, number]
  const ratio = large / small
  t.ok(ratio <= 1.5, `${ratio.toFixed(2)} times`)
})

t.test('at a limit of 10,000, a start that is refused costs at most 1.5 times as much as at a limit of 10', async t => {
  const key = streamKey('ann', 'a')
  async function fullRegistry (maxStreamsPerScope: number): Promise<Registry> {
    const registry = build(maxStreamsPerScope, 'reject')
    for (let i = 0; i < maxStreamsPerScope; i++) await registry.replaceAndRegister(streamKey('ann', `other ${i}`), new PlainHolder())
    return registry
  }
  const [small, large] = await leastTimes([await fullRegistry(10), await fullRegistry(10_000)], 40, async registry => {
    let refused = 0
    const before = performance.now()
    for (let i = 0; i < 100; i++) await registry.replaceAndRegister(key, new PlainHolder()).catch(() => refused++)
    const time = performance.now() - before
    t.equal(refused, 100)
    return time
  }) as [number, number]
  const ratio = large / small
  t.ok(ratio <= 1.5, `${ratio.toFixed(2)} times`)
})

t.test('a full scope ends its oldest live stream first, also after streams in the middle and at both ends have left', async t => {
  const registry = build(4)
  const holders: ObedientHolder[] = []
  const start = async () => {
    const holder = new ObedientHolder()
    holders.push(holder)
    await registry.replaceAndRegister(streamKey('ann', `tab ${holders.length}`), holder)
  }
  const evicted = () => holders.flatMap(({ reasons }, index) => reasons.includes('evicted') ? [index] : [])
  for (let i = 0; i < 4; i++) await start()
  for (const index of [1, 0, 3]) {
    holders[index]!.leave()
    await turn()
  }
  for (let i = 0; i < 3; i++) await start()
  t.strictSame(evicted(), [])
  for (let i = 0; i < 3; i++) await start()
  t.strictSame(evicted(), [2, 4, 5])
  t.equal(registry.size, 4)
})

t.test('a holder that has begun to end by itself while waiting for a place makes room for the next start', async t => {
  const registry = build(1)
  const [cleaning, waiting, newcomer] = [new PlainHolder(), Object.assign(new PlainHolder(), { closing: false }), new PlainHolder()]
  await registry.replaceAndRegister(streamKey('ann', 'a'), cleaning)
  const waited = registry.replaceAndRegister(streamKey('ann', 'b'), waiting)
  t.strictSame(cleaning.reasons, ['evicted'])
  waiting.closing = true
  const started = registry.replaceAndRegister(streamKey('ann', 'c'), newcomer)
  t.equal(await waited, false)
  cleaning.leave()
  t.equal(await started, true)
  t.strictSame(waiting.reasons, [], 'it was not evicted, because it was ending')
})

async function heapOfRace (maxStreamsPerScope: number): Promise<number> {
  await turn()
  gc()
  const before = process.memoryUsage().heapUsed
  const registry = build(maxStreamsPerScope)
  for (let i = 0; i < 3_000; i++) {
    const key = streamKey('ann', `tab ${i}`)
    const pending = pendingStream({ key })
    const { stream } = pending
    // A handler that opens a stream has a cleanup that does not end while this test measures.
    startOn(registry, pending, key).then(() => {
      stream.onClose(() => new Promise(() => {}))
      stream.keepAlive()
    }, () => {}).finally(() => stream.handlerReturned())
  }
  for (let i = 0; i < 10; i++) await turn()
  gc()
  const grown = process.memoryUsage().heapUsed - before
  await registry.close(1)
  return grown
}

t.test('3,000 racing starts of one user with slow cleanups take no more memory than without a limit', async t => {
  await heapOfRace(Infinity)
  const without = await heapOfRace(Infinity)
  const limited = await heapOfRace(5)
  t.ok(limited <= without, `${Math.round(limited / 1024)} KiB with a limit, ${Math.round(without / 1024)} KiB without`)
})

t.test('there are never more streams between opened and gone than the limit allows', async t => {
  const LIMIT = 5
  const registry = build(LIMIT)
  let [live, most] = [0, 0]
  const starts: Array<Promise<void>> = []
  for (let i = 0; i < 300; i++) {
    const key = streamKey('ann', `tab ${i % 40}`)
    const pending = pendingStream({ key })
    const { stream } = pending
    stream.onClose(async () => { for (let n = 0; n < i % 7; n++) await turn() })
    starts.push(startOn(registry, pending, key).then(() => {
      most = Math.max(most, ++live)
      stream.gone.then(() => live--)
      stream.keepAlive()
    }, () => {}).finally(() => stream.handlerReturned()))
    if (i % 10 === 0) await turn()
  }
  await Promise.all(starts)
  t.equal(most, LIMIT)
  await registry.evict('ann')
  t.equal(registry.size, 0)
})

t.test('a navigation or an embedded resource of another site starts no stream and ends no holder', async t => {
  const app = await buildApp(t, { maxStreamsPerScope: 1 })
  const streams = streamRoute(app)
  await app.listen()
  const ask = (tabId: string, site: string, mode: string) =>
    connect(app.url(withSignals('/stream/ann', { tabId })), { headers: { 'sec-fetch-site': site, 'sec-fetch-mode': mode } })
  const live = await connect(app.url(withSignals('/stream/ann', { tabId: 'a' })))
  for (const mode of ['navigate', 'no-cors']) {
    for (const tabId of ['a', 'b']) {
      const refused = await ask(tabId, 'cross-site', mode)
      await refused.ended
      t.equal(refused.status, 403)
      t.match(JSON.parse(refused.text), { code: 'FST_ERR_OCTA_STAR_CROSS_SITE' })
    }
  }
  t.equal(streams.length, 1)
  await streams[0]!.send('still here')
  t.match(await live.event(1), { data: 'still here' })
  for (const [site, mode] of [['cross-site', 'cors'], ['same-origin', 'cors'], ['same-origin', 'same-origin'], ['same-site', 'navigate'], ['none', 'navigate']] as const) {
    t.equal((await ask('a', site, mode)).status, 200, `${site}, ${mode}`)
  }
})
