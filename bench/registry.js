// `replaceAndRegister` in process, with fresh and with held keys, in small and large registries, against a Map swap and a resolved
// promise. For scale, the rows also show the numbers of the Elixir original on such a machine.
import Fastify from 'fastify'
import octaStarStreams, { streamKey } from 'octa-star-streams'
import { inTurn, median, quantile, ratios, row } from './kit/pairs.js'
import { memory } from './kit/processes.js'

export const sizes = {
  full: { rounds: 151, calls: 1_000, sustained: 20_000, held: [1_000, 10_000, 100_000] },
  moment: { rounds: 2, calls: 200, sustained: 200, held: [10, 50, 100] }
}

/** The numbers of the Elixir original: the better end of the measured range. */
const ELIXIR = { freshPerSecond: 290_000, freshMicros: 3.5, replaceMicros: 6.2, bytes: 490 }

export async function run ({ rounds, calls, sustained, held }) {
  const contestants = {}
  for (const count of held) {
    const octa = await register(await octaRegistry(), count, calls)
    const swap = await register(new SwapRegistry(), count, calls)
    for (const kind of ['fresh', 'held']) {
      contestants[`octa ${kind} ${count}`] = () => octa[kind](timed)
      contestants[`swap ${kind} ${count}`] = () => swap[kind](timed)
    }
  }
  // The round that `inTurn` does not count is too short for V8 to compile the code.
  await inTurn(contestants, Math.ceil(rounds / 5))
  const times = await inTurn(contestants, rounds)

  const most = held.at(-1)
  const against = kind => held.map(count => [count, ratios(times[`octa ${kind} ${count}`], times[`swap ${kind} ${count}`])])
  const rows = []
  for (const kind of ['fresh', 'held']) {
    const what = (count) => `\`replaceAndRegister\` in process, ${kind} keys, ${count.toLocaleString('en')} others held`
    const all = against(kind)
    for (const [count, values] of all.filter(([count]) => count === held[0] || count === most)) {
      rows.push(row({ what: what(count), against: 'a `Map` swap and one resolved promise', values, atMost: 4 }))
    }
    const growth = name => median(ratios(times[`${name} ${kind} ${most}`], times[`${name} ${kind} ${held[0]}`])).toFixed(1)
    rows.push(row({ what: `the same distance, ${most.toLocaleString('en')} held`, against: `${held[0].toLocaleString('en')} held`, values: ratios(all.at(-1)[1], all[0][1]), atMost: 1.2, note: `flat in the number held; by itself ${growth('octa')} x, the \`Map\` ${growth('swap')} x` }))
  }
  return {
    rows: [...rows, ...await forScale(rounds, calls, sustained, most)],
    series: Object.entries({ 'octa fresh': 'replaceAndRegister, fresh keys', 'swap fresh': 'the Map swap, fresh keys', 'octa held': 'replaceAndRegister, held keys', 'swap held': 'the Map swap, held keys' }).map(([name, label]) => ({
      label: `${label}, by others held`,
      points: held.map(count => [count, median(ratios(times[`${name} ${count}`], times[`${name} ${held[0]}`]))])
    }))
  }
}

/** The holder is made of scope and tab inside the measured time, because opening a stream includes that work. */
async function forScale (rounds, calls, sustained, count) {
  const octa = await register(await octaRegistry(), count, calls)
  // So many calls that the garbage they leave is collected within the measured time.
  const busy = await register(await octaRegistry(), count, sustained)
  const empty = await octaRegistry()
  const measures = { fresh: () => busy.fresh(clocked), freshEach: () => octa.fresh(timedEach), replaceEach: () => octa.held(timedEach), bytes: () => octa.fresh(allocated), replaceBytes: () => octa.held(allocated) }
  const { fresh, freshEach, replaceEach, bytes, replaceBytes } = await inTurn(measures, Math.ceil(rounds / 5))
  const { kept } = await inTurn({ kept: () => keptBy(empty, count) }, Math.min(rounds, 7))
  const what = `the same, ${count.toLocaleString('en')} others held: `
  const against = number => `the Elixir original: ${number}`
  return [
    row({ what: `${what}fresh registrations a second`, against: against('290,000 at best'), values: fresh.map(time => sustained / time * 1000 / ELIXIR.freshPerSecond), above: 1, note: `${thousands(sustained / median(fresh) * 1000)} a second, with their garbage collected` }),
    row({ what: `${what}a fresh one, p50`, against: against('3.5 us'), values: freshEach.map(times => median(times) * 1000 / ELIXIR.freshMicros), below: 1, note: `${(median(freshEach.map(median)) * 1000).toFixed(2)} us; p99 ${(median(freshEach.map(times => quantile(times, 0.99))) * 1000).toFixed(2)} us` }),
    row({ what: `${what}a replacement, p50`, against: against('6.2 us'), values: replaceEach.map(times => median(times) * 1000 / ELIXIR.replaceMicros), below: 1, note: `${(median(replaceEach.map(median)) * 1000).toFixed(2)} us; p99 ${(median(replaceEach.map(times => quantile(times, 0.99))) * 1000).toFixed(2)} us` }),
    row({ what: `${what}bytes that a held one takes`, against: against('490 bytes'), values: kept.map(bytes => bytes / ELIXIR.bytes), below: 1, note: `${Math.round(median(kept))} bytes kept; ${Math.round(median(bytes))} allocated by a fresh call, ${Math.round(median(replaceBytes))} by a replacement` })
  ]
}

const thousands = number => (Math.round(number / 1000) * 1000).toLocaleString('en')

async function octaRegistry () {
  const fastify = Fastify()
  await fastify.register(octaStarStreams)
  await fastify.ready()
  return fastify.streamRegistry
}

/** The minimum that does the same: the newest holder is in the Map, and the holder before it is gone. */
class SwapRegistry {
  #holders = new Map()

  async replaceAndRegister ({ scope }, holder) {
    const previous = this.#holders.get(scope)
    this.#holders.set(scope, holder)
    previous?.close('replaced')
    await (previous?.gone ?? RESOLVED)
    return true
  }

  forget ({ scope }) {
    this.#holders.delete(scope)
  }
}
const RESOLVED = Promise.resolve()

class Holder {
  constructor () {
    this.gone = new Promise(resolve => { this.resolve = resolve })
  }

  close (reason) {
    this.resolve(reason)
  }
}

let lastUser = 0
const newKeys = count => Array.from({ length: count }, () => streamKey(`user${++lastUser}`, `tab${lastUser}`))
const newHolders = count => Array.from({ length: count }, () => new Holder())

/** A registry that holds `count` other keys, and its measurements: `calls` calls, whose arguments are made beforehand. */
async function register (registry, count, calls) {
  await registerAll(registry, newKeys(count), newHolders(count))
  const held = newKeys(calls)
  await registerAll(registry, held, newHolders(calls))
  return {
    async fresh (measure) {
      const keys = newKeys(calls)
      const holders = newHolders(calls)
      const result = await measure(registry, keys, holders)
      for (const holder of holders) holder.close('finished')
      for (const key of keys) registry.forget?.(key)
      await turn()
      return result
    },
    async held (measure) {
      const result = await measure(registry, held, newHolders(calls))
      await turn()
      return result
    }
  }
}

/** How much memory the registry uses for a holder, without the holder and the key. Unit: bytes. */
async function keptBy (registry, count) {
  const keys = newKeys(count)
  const holders = newHolders(count)
  const before = memory()
  await registerAll(registry, keys, holders)
  const bytes = (memory() - before) / keys.length
  for (const holder of holders) holder.close('finished')
  await turn()
  return bytes
}

const turn = () => new Promise(resolve => setImmediate(resolve))

async function registerAll (registry, keys, holders) {
  for (let i = 0; i < keys.length; i++) await registry.replaceAndRegister(keys[i], holders[i])
}

/** The processor time of all calls. The clock would include the turns of neighbouring programs, which take longer than the calls. Unit: milliseconds. */
async function timed (registry, keys, holders) {
  const before = process.cpuUsage()
  await registerAll(registry, keys, holders)
  const { user, system } = process.cpuUsage(before)
  return (user + system) / 1000
}

/** The time of all calls by the clock, because the Elixir original was measured by the clock. Unit: milliseconds. */
async function clocked (registry, keys, holders) {
  const start = performance.now()
  await registerAll(registry, keys, holders)
  return performance.now() - start
}

/** How long each call took. Unit: milliseconds. */
async function timedEach (registry, keys, holders) {
  const times = []
  for (let i = 0; i < keys.length; i++) {
    const start = performance.now()
    await registry.replaceAndRegister(keys[i], holders[i])
    times.push(performance.now() - start)
  }
  return times
}

/** How many bytes a call allocates. Collects garbage before the calls, so that no collection happens during the calls. */
async function allocated (registry, keys, holders) {
  globalThis.gc()
  const before = process.memoryUsage().heapUsed
  await registerAll(registry, keys, holders)
  return (process.memoryUsage().heapUsed - before) / keys.length
}
