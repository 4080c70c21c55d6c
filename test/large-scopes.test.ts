// A scope of very many streams: an eviction and a shutdown leave the event loop free for other work, and are final all the same.
import { createHook } from 'node:async_hooks'
import { readFileSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { defaults } from '../lib/options.ts'
import { Registry } from '../lib/registry/registry.ts'
import { streamKey } from '../lib/registry/stream-key.ts'
import type { LiveStream } from '../lib/stream/stream.ts'
import type { CloseReason } from '../lib/index.ts'
import { buildApp, streamRoute, withSignals } from './kit/app.ts'
import { connect } from './kit/client.ts'
import { pendingStream, startOn } from './kit/fake-stream.ts'
import { memoryLog } from './kit/memory-log.ts'
import { ObedientHolder, PlainHolder } from './kit/plain-holder.ts'

const LARGE = 100_000

async function fill<H extends PlainHolder> (count: number, createHolder: () => H): Promise<{ registry: Registry, holders: H[] }> {
  const registry = new Registry({ ...defaults, onLimit: 'replace-oldest' }, memoryLog().log)
  const holders = Array.from({ length: count }, createHolder)
  for (const [index, holder] of holders.entries()) await registry.replaceAndRegister(streamKey('ann', `tab ${index}`), holder)
  return { registry, holders }
}

/**
 * The processor time of the main thread, which other work of the machine does not lengthen. On a system without
 * https://www.kernel.org/doc/html/latest/scheduler/sched-stats.html the time of day. Unit: milliseconds.
 */
function clock (): number {
  try {
    const [nanoseconds] = readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'latin1').split(' ')
    return Number(nanoseconds) / 1e6
  } catch {
    return performance.now()
  }
}

/** Returns the longest time that the event loop was held up during `work`, by `clock`. */
async function longestTurnOf (work: () => Promise<unknown>): Promise<number> {
  await turn()
  let [longestTurn, last] = [0, clock()]
  const working = work().then(() => 'over')
  let state = ''
  while (state !== 'over') {
    state = await Promise.race([working, turn('at work')])
    const now = clock()
    longestTurn = Math.max(longestTurn, now - last)
    last = now
  }
  return longestTurn
}

const ends: Record<string, (registry: Registry) => Promise<unknown>> = {
  'an eviction': registry => registry.evict('ann'),
  'a shutdown': registry => registry.close(60_000)
}
for (const [name, end] of Object.entries(ends)) {
  t.test(`${name} of 100,000 holders holds the event loop up for at most 50 ms at a time`, async t => {
    // Garbage of the round before can make a turn longer. Without pauses every round fails.
    let shortest = Infinity
    for (let round = 0; round < 5 && shortest > 50; round++) {
      const { registry, holders } = await fill(LARGE, () => new ObedientHolder())
      const longestTurn = await longestTurnOf(() => end(registry))
      t.ok(holders.every(({ reasons }) => reasons.length === 1))
      t.equal(registry.size, 0)
      shortest = Math.min(shortest, longestTurn)
    }
    t.ok(shortest <= 50, `${shortest.toFixed(0)} ms`)
  })
}

async function fillWithStreams (count: number): Promise<{ registry: Registry, streams: LiveStream[] }> {
  const { log } = memoryLog()
  const registry = new Registry({ ...defaults, onLimit: 'replace-oldest' }, log)
  const streams: LiveStream[] = []
  for (let i = 0; i < count; i++) {
    const key = streamKey('ann', `tab ${i}`)
    const pending = pendingStream({ key, log })
    await startOn(registry, pending, key)
    pending.stream.keepAlive()
    pending.stream.handlerReturned()
    streams.push(pending.stream)
  }
  return { registry, streams }
}

/** Returns how many promises and timers Node makes during `work`. A stream that ends makes neither. */
async function countNew (work: () => Promise<unknown>): Promise<number> {
  let count = 0
  const hook = createHook({ init: (_id, type) => { if (type === 'PROMISE' || type === 'Timeout') count++ } }).enable()
  await work()
  hook.disable()
  return count
}

// The benchmark `scope` compares the time with a loop that ends the streams.
for (const [name, end] of Object.entries(ends)) {
  t.test(`${name} of 3,000 streams makes no promise and no timer for each of the streams`, async t => {
    const { registry, streams } = await fillWithStreams(3_000)
    const count = await countNew(() => end(registry))
    t.ok(streams.every(({ closing }) => closing === true))
    t.equal(registry.size, 0)
    t.ok(count < 1_000, `${count} promises and timers`)
  })
}

/** A holder whose end takes a tenth of a millisecond, so that the end of a hundred holders takes a whole turn on any machine. */
class SlowHolder extends PlainHolder {
  isDestroyed = false
  override close (reason: CloseReason) {
    super.close(reason)
    spin()
  }

  destroy () { this.isDestroyed = true }
}

function spin (): void {
  const until = performance.now() + 0.1
  while (performance.now() < until);
}

t.test('an eviction of up to 100 holders ends all of them in the turn of the call, however slow the machine is', async t => {
  const { registry, holders } = await fill(100, () => new SlowHolder())
  const evicted = registry.evict('ann')
  for (const holder of holders) {
    t.strictSame(holder.reasons, ['evicted'])
    holder.leave()
  }
  t.equal(await evicted, 100)
})

t.test('a shutdown whose time is up before it has ended all of 1,000 holders ends and destroys the rest', async t => {
  const { registry, holders } = await fill(1_000, () => new SlowHolder())
  await registry.close(1)
  t.ok(holders.every(({ reasons }) => reasons.length === 1 && reasons[0] === 'shutdown'))
  t.ok(holders.every(({ isDestroyed }) => isDestroyed))
  t.equal(registry.size, 0)
})

t.test('an eviction over several turns ends every stream of the time of the call, counts each once, and spares streams that start later', async t => {
  const STREAMS = 300
  const app = await buildApp(t, { logLevel: 'warn' })
  const { streamRegistry } = app.fastify
  const streams = streamRoute(app, '/stream/:scope', stream => stream.onClose(spin))
  await app.listen()
  const clients = await Promise.all(Array.from({ length: STREAMS }, (_, index) => connect(app.url(withSignals('/stream/ann', { tabId: `tab ${index}` })))))
  t.equal(streams.length, STREAMS)

  const evicted = streamRegistry.evict('ann')
  const waiting = streams.filter(({ closing }) => closing !== true)
  t.equal(waiting.length, STREAMS - 100, 'the other streams end in later turns')
  const [replacing, fresh] = [new ObedientHolder(), new ObedientHolder()]
  const newcomers = [
    streamRegistry.replaceAndRegister(streamKey('ann', waiting[0]!.tabId), replacing),
    streamRegistry.replaceAndRegister(streamKey('ann', 'a new tab'), fresh)
  ]
  waiting[1]!.close('finished')
  t.equal(await evicted, STREAMS)
  t.equal(streams.filter(({ closing }) => closing !== true).length, 0)
  t.equal(await streamRegistry.send('ann', 'too late'), 0)
  t.strictSame(await Promise.all(newcomers), [true, true])
  t.strictSame([...replacing.reasons, ...fresh.reasons], [])
  t.equal(streamRegistry.size, 2)

  const farewells: Record<string, number> = {}
  for (const client of clients) {
    t.equal(await client.ended, 'clean')
    const last = client.events.at(-1)?.data ?? 'none'
    farewells[last] = (farewells[last] ?? 0) + 1
  }
  t.strictSame(farewells, { evicted: STREAMS - 2, replaced: 1, none: 1 })
})
