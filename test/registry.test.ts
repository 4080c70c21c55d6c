// The registry with holders that are not streams, and cases that the tests of the rules leave out.
import diagnostics from 'node:diagnostics_channel'
import { setImmediate as turn } from 'node:timers/promises'
import FakeTimers from '@sinonjs/fake-timers'
import t from 'tap'
import { defaults } from '../lib/options.ts'
import { Registry } from '../lib/registry/registry.ts'
import { streamKey } from '../lib/registry/stream-key.ts'
import type { Cluster, Holder } from '../lib/index.ts'
import { buildApp, LEVELS, streamRoute, withSignals } from './kit/app.ts'
import { connect } from './kit/client.ts'
import { memoryLog } from './kit/memory-log.ts'
import { ObedientHolder, PlainHolder } from './kit/plain-holder.ts'

const build = (options = {}) => {
  const { log, lines } = memoryLog()
  return { registry: new Registry({ ...defaults, onLimit: 'replace-oldest', ...options }, log), lines }
}

t.test('any object with a close method and a promise `gone` can hold a key', async t => {
  const { registry } = build()
  const key = streamKey('ann', 'a')
  const [first, second] = [new PlainHolder(), new PlainHolder()]
  t.equal(await registry.replaceAndRegister(key, first), true)
  t.equal(registry.get('ann', 'a') as Holder, first)
  const replaced = registry.replaceAndRegister(key, second)
  t.strictSame(first.reasons, ['replaced'])
  t.equal(registry.get('ann', 'a'), undefined, 'the newcomer does not hold the key yet')
  first.leave()
  t.equal(await replaced, true)
  second.leave(new Error('a promise that rejects has settled too'))
  await turn()
  t.equal(registry.size, 0)
})

t.test('a holder that is overtaken while waiting is told so once, and is not registered', async t => {
  const { registry } = build()
  const key = streamKey('ann', 'a')
  const [first, second, third] = [new PlainHolder(), new PlainHolder(), new PlainHolder()]
  await registry.replaceAndRegister(key, first)
  const overtaken = registry.replaceAndRegister(key, second)
  const newest = registry.replaceAndRegister(key, third)
  t.strictSame([first.reasons, second.reasons], [['replaced'], ['replaced']])
  second.leave()
  first.leave()
  t.equal(await overtaken, false)
  t.equal(await newest, true)
  t.strictSame([...registry] as Holder[], [third])
})

t.test('a holder that is not gone replaceTimeout after its end began is given up once, with a warning, and is no longer counted', async t => {
  const { registry, lines } = build({ replaceTimeout: 20 })
  const key = streamKey('ann', 'a')
  await registry.replaceAndRegister(key, new PlainHolder())
  t.equal(await registry.replaceAndRegister(key, new PlainHolder()), true)
  t.equal(registry.size, 1)
  t.equal(registry.givenUp, 1)
  t.equal(await registry.count('ann'), 1)
  const waiting = registry.replaceAndRegister(key, new PlainHolder())
  await registry.close(20)
  t.equal(registry.size, 0)
  t.equal(await waiting, false)
  t.strictSame(lines.map(({ message }) => message), Array(3).fill('a holder was not gone within replaceTimeout and is not waited for any longer'))
})

t.test('after the close every newcomer is told to shut down', async t => {
  const { registry } = build()
  await registry.close(20)
  const late = new PlainHolder()
  t.equal(await registry.replaceAndRegister(streamKey('ann', 'a'), late), false)
  t.strictSame(late.reasons, ['shutdown'])
})

t.test('a holder that makes room in a full scope and is not gone within replaceTimeout is given up, and the newcomer holds its key', { timeout: 30_000 }, async t => {
  const { registry, lines } = build({ maxStreamsPerScope: 1, replaceTimeout: 50 })
  const [oldest, newcomer] = [new PlainHolder(), new PlainHolder()]
  await registry.replaceAndRegister(streamKey('ann', 'a'), oldest)
  t.equal(await registry.replaceAndRegister(streamKey('ann', 'b'), newcomer), true)
  t.strictSame(oldest.reasons, ['evicted'])
  t.equal(registry.givenUp, 1)
  t.strictSame(lines.map(({ message }) => message), ['a holder was not gone within replaceTimeout and is not waited for any longer'])
  oldest.leave()
  newcomer.leave()
  await turn()
  t.strictSame([registry.size, registry.givenUp], [0, 0])
})

t.test('a loop over the registry leaves out the holders that are gone before their turn, and no other holder', async t => {
  const { registry } = build()
  const holders = Array.from({ length: 5 }, () => new ObedientHolder())
  for (const [i, holder] of holders.entries()) await registry.replaceAndRegister(streamKey('ann', `tab ${i}`), holder)
  const seen: unknown[] = []
  for (const holder of registry) {
    seen.push(holder)
    // The first holder and the two behind it.
    if (seen.length === 1) for (const tab of ['tab 0', 'tab 1', 'tab 2']) await registry.evict('ann', tab)
  }
  t.strictSame(seen, [holders[0], holders[3], holders[4]])
  t.strictSame([...registry], [holders[3], holders[4]])
})

t.test('an eviction of a tab whose id is not a string rejects, and evicts nobody', async t => {
  const { registry } = build()
  const holder = new PlainHolder()
  await registry.replaceAndRegister(streamKey('ann', 'a'), holder)
  for (const tabId of [{ tabId: 'a' }, 1, null, ['a']]) await t.rejects(registry.evict('ann', tabId as unknown as string), { code: 'FST_ERR_OCTA_STAR_TAB_ID', statusCode: 400 })
  t.strictSame(holder.reasons, [])
})

t.test('if a cluster of any kind cannot confirm an eviction, evict rejects with its own code and the cluster\'s error as the cause', async t => {
  const { registry } = build()
  for (const [cause, message] of [[new Error('no quorum'), /may still be live: no quorum\./], ['no quorum', /may still be live: no quorum\./], [undefined, /may still be live: undefined\./]] as const) {
    registry.cluster = { evict: () => Promise.reject(cause) } as unknown as Cluster
    await t.rejects(registry.evict('ann'), { code: 'FST_ERR_OCTA_STAR_EVICT', statusCode: 503, message, cause })
  }
})

t.test('in a full scope a newcomer waits for ending holders before any other holder is evicted', async t => {
  const { registry } = build({ maxStreamsPerScope: 2 })
  const [oldest, ending, newcomer] = [new PlainHolder(), Object.assign(new PlainHolder(), { closing: true }), new PlainHolder()]
  await registry.replaceAndRegister(streamKey('ann', 'a'), oldest)
  await registry.replaceAndRegister(streamKey('ann', 'b'), ending)
  const registered = registry.replaceAndRegister(streamKey('ann', 'c'), newcomer)
  ending.leave()
  t.equal(await registered, true)
  t.strictSame(oldest.reasons, [])
})

t.test('a key that is replaced more than ten times in ten seconds is reported once', async t => {
  const app = await buildApp(t)
  streamRoute(app)
  const flapping: unknown[] = []
  const onFlapping = (event: unknown) => { flapping.push(event) }
  diagnostics.subscribe('octa-star:key:flapping', onFlapping)
  t.teardown(() => { diagnostics.unsubscribe('octa-star:key:flapping', onFlapping) })
  await app.listen()
  // The clock stands still, so all replacements fall within ten seconds on any machine.
  const clock = FakeTimers.install({ toFake: ['performance'] })
  t.teardown(() => clock.uninstall())
  const warnings = () => app.log.filter(line => line.level === LEVELS.warn)
  const url = app.url(withSignals('/stream/ann', { tabId: 'a' }))
  for (let i = 0; i < 11; i++) await connect(url)
  t.equal(warnings().length, 0, 'ten replacements cause no warning')
  for (let i = 0; i < 10; i++) await connect(url)
  t.match(warnings(), [{ scope: '"ann"', tabId: 'a', msg: /replaced more than 10 times in 10 s. Most likely two tabs use the same tab id/ }])
  t.match(flapping, [{ key: { scopeKey: 'ann', tabId: 'a' } }])
})

t.test('thirty replacements, one per second, are not reported', async t => {
  const clock = FakeTimers.install({ toFake: ['performance'] })
  t.teardown(() => clock.uninstall())
  const { registry, lines } = build()
  for (let i = 0; i < 30; i++) {
    const holder = new PlainHolder()
    holder.close = () => holder.leave()
    await registry.replaceAndRegister(streamKey('ann', 'a'), holder)
    clock.tick(1_000)
  }
  t.strictSame(lines, [])
})

t.test('if the end of a holder starts another holder of the same key at once, the new holder also waits for the first', async t => {
  // The new holder only waited for the second holder, which did not know yet that the first holder was not gone.
  const { registry } = build()
  const key = streamKey('ann', 'a')
  const [first, second, third] = [new PlainHolder(), new PlainHolder(), new PlainHolder()]
  let newest: Promise<boolean>
  let held = false
  first.close = () => { newest = registry.replaceAndRegister(key, third).then(holds => (held = holds)) }
  second.close = () => second.leave()
  await registry.replaceAndRegister(key, first)
  const overtaken = registry.replaceAndRegister(key, second)
  for (let i = 0; i < 20; i++) await turn()
  t.notOk(held, 'the first is not gone')
  first.leave()
  t.equal(await overtaken, false)
  t.equal(await newest!, true)
  t.strictSame([...registry] as Holder[], [third])
})

t.test('if close or destroy of a holder throws, all other holders end, newcomers start, and nothing is left behind', async t => {
  // After the error an eviction skipped later holders, or a newcomer was refused and the key never released.
  const { registry, lines } = build({ replaceTimeout: 20 })
  const [faulty, neighbour, newcomer] = [new PlainHolder(), new PlainHolder(), new PlainHolder()]
  Object.assign(faulty, { close () { throw new Error('a fault in close') }, destroy () { throw new Error('a fault in destroy') } })
  await registry.replaceAndRegister(streamKey('ann', 'a'), faulty)
  await registry.replaceAndRegister(streamKey('ann', 'b'), neighbour)
  t.equal(await registry.replaceAndRegister(streamKey('ann', 'a'), newcomer), true)
  t.match(lines, [
    { level: 'warn', details: { err: { message: 'a fault in close' } } },
    { level: 'warn', message: /not gone within replaceTimeout/ },
    { level: 'warn', details: { err: { message: 'a fault in destroy' } } }
  ])

  Object.assign(newcomer, { close: faulty.close })
  neighbour.close = () => neighbour.leave()
  t.equal(await registry.evict('ann'), 2)
  t.notOk([...registry].includes(neighbour as never), 'it was evicted')
  faulty.leave()
  newcomer.leave()
  await turn()
  t.equal(registry.size, 0)
  t.equal(await registry.count('ann'), 0)
})

for (const onLimit of ['replace-oldest', 'reject'] as const) {
  t.test(`with onLimit ${onLimit}, a holder in a full scope that has begun to end by itself and is never gone is given up`, async t => {
    const registry = new Registry({ ...defaults, maxStreamsPerScope: 1, replaceTimeout: 50, onLimit }, memoryLog().log)
    const hanging = Object.assign(new PlainHolder(), { closing: false })
    await registry.replaceAndRegister(streamKey('ann', 'a'), hanging)
    hanging.closing = true
    const start = () => registry.replaceAndRegister(streamKey('ann', 'b'), new ObedientHolder())
    if (onLimit === 'reject') {
      await t.rejects(start(), { code: 'FST_ERR_OCTA_STAR_LIMIT' })
      while (registry.size > 0) await turn()
    }
    t.equal(await start(), true)
    t.equal(registry.givenUp, 1)
    await registry.close(50)
    hanging.leave()
  })
}

t.test('a holder of the application may have any other property', async t => {
  const registry = new Registry({ ...defaults, onLimit: 'replace-oldest' }, memoryLog().log)
  const holder = Object.assign(new ObedientHolder(), { observer: undefined, open: 'open' })
  t.equal(await registry.replaceAndRegister(streamKey('ann', 'a'), holder), true)
  await registry.evict('ann')
  t.strictSame([holder.reasons, registry.size], [['evicted'], 0])
})
