// What the limit of a scope costs: neither the time of a start nor the memory grows with the limit or with the size of the scope.
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
