// `replaceAndRegister` in process, with fresh and with held keys, in small and large registries, against a Map swap and a resolved promise.
import { inTurn, median, ratios, row } from './kit/pairs.js'
import { cpuTime, endAll, newHolders, newKeys, octaRegistry, registerAll, turn } from './kit/registry.js'

export const sizes = {
  full: { rounds: 101, calls: 1_000, held: [1_000, 10_000, 100_000] },
  moment: { rounds: 2, calls: 200, held: [10, 50, 100] }
}

export async function measure ({ rounds, calls, held }) {
  const contestants = {}
  for (const count of held) {
    const octa = await register(await octaRegistry(), count, calls)
    const swap = await register(new SwapRegistry(), count, calls)
    for (const kind of ['fresh', 'held']) {
      contestants[`octa ${kind} ${count}`] = octa[kind]
      contestants[`swap ${kind} ${count}`] = swap[kind]
    }
  }
  // The round that `inTurn` does not count is too short for V8 to compile the code.
  await inTurn(contestants, Math.ceil(rounds / 5))
  return await inTurn(contestants, rounds)
}

export function rows (times, { held }) {
  const most = held.at(-1)
  const rows = []
  for (const kind of ['fresh', 'held']) {
    const against = count => ratios(times[`octa ${kind} ${count}`], times[`swap ${kind} ${count}`])
    for (const count of [held[0], most]) {
      rows.push(row({ what: `\`replaceAndRegister\` in process, ${kind} keys, ${count.toLocaleString('en')} others held`, against: 'a `Map` swap and one resolved promise', values: against(count), atMost: 4 }))
    }
    const growth = name => median(ratios(times[`${name} ${kind} ${most}`], times[`${name} ${kind} ${held[0]}`])).toFixed(1)
    rows.push(row({ what: `the same distance, ${most.toLocaleString('en')} held`, against: `${held[0].toLocaleString('en')} held`, values: ratios(against(most), against(held[0])), atMost: 1.2, note: `flat in the number held; by itself ${growth('octa')} x, the \`Map\` ${growth('swap')} x` }))
  }
  return {
    rows,
    series: Object.entries({ 'octa fresh': 'replaceAndRegister, fresh keys', 'swap fresh': 'the Map swap, fresh keys', 'octa held': 'replaceAndRegister, held keys', 'swap held': 'the Map swap, held keys' }).map(([name, label]) => ({
      plot: 'scaling',
      label: `${label}, by others held`,
      points: held.map(count => [count, median(ratios(times[`${name} ${count}`], times[`${name} ${held[0]}`]))])
    }))
  }
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

/** A registry that holds `count` other keys, and its measurements: the processor time of `calls` calls, whose arguments are made beforehand. */
async function register (registry, count, calls) {
  await registerAll(registry, newKeys(count), newHolders(count))
  const held = newKeys(calls)
  await registerAll(registry, held, newHolders(calls))
  return {
    async fresh () {
      const keys = newKeys(calls)
      const holders = newHolders(calls)
      const time = await cpuTime(() => registerAll(registry, keys, holders))
      for (const key of keys) registry.forget?.(key)
      await endAll(holders)
      return time
    },
    async held () {
      const holders = newHolders(calls)
      const time = await cpuTime(() => registerAll(registry, held, holders))
      await turn()
      return time
    }
  }
}
