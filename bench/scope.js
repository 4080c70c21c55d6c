// A scope with very many streams, in process: the start of one more stream under `maxStreamsPerScope`, and `evict` of the scope.
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { streamKey } from 'octa-star-streams'
import { inTurn, median, millis, ratios, row } from './kit/pairs.js'
import { cpuTime, endAll, mainThreadTime, newHolders, newKeys, octaRegistry, registerAll } from './kit/registry.js'

export const sizes = {
  full: { rounds: 31, calls: 300, beside: 10_000, evictions: 7, evicted: 100_000 },
  moment: { rounds: 2, calls: 20, beside: 50, evictions: 2, evicted: 1_000 }
}

const SCOPE = 'ann'

export async function measure ({ rounds, calls, beside, evictions, evicted }) {
  const starts = {
    limited: await starter({ maxStreamsPerScope: beside + calls }, beside, calls),
    full: await starter({ maxStreamsPerScope: beside }, beside, calls),
    unlimited: await starter({}, beside, calls),
    replacing: await starter({}, beside, calls, true)
  }
  // The round that `inTurn` does not count is too short for V8 to compile the code.
  await inTurn(starts, Math.ceil(rounds / 3))
  const times = await inTurn(starts, rounds)

  const registry = await octaRegistry()
  return {
    ...times,
    ...await inTurn({
      evict: () => endOf(registry, evicted, () => registry.evict(SCOPE)),
      loop: () => endOf(registry, evicted, async holders => {
        for (const holder of holders) holder.close('evicted')
        await Promise.all(holders.map(({ gone }) => gone))
      })
    }, evictions)
  }
}

export function rows ({ limited, full, unlimited, replacing, evict, loop }, { calls, beside, evicted }) {
  const what = `a start under \`maxStreamsPerScope\`, beside ${beside.toLocaleString('en')} streams of the scope`
  const each = times => `${(median(times) / calls * 1000).toFixed(1)} us`
  const eviction = `\`evict\` of a scope with ${evicted.toLocaleString('en')} streams`
  const cpu = ({ cpu }) => cpu
  const delay = ({ delay }) => delay
  return {
    rows: [
      row({ what: `${what}, not full`, against: 'a start without a limit, beside as many', values: ratios(limited, unlimited), atMost: 1.5, note: `${each(limited)} against ${each(unlimited)} of processor time, in process` }),
      row({ what: `${what}, full: ends the oldest stream`, against: 'a start without a limit that replaces the oldest stream, beside as many', values: ratios(full, replacing), atMost: 1.5, note: `${each(full)} against ${each(replacing)}` }),
      row({ what: eviction, against: 'ending the streams in a loop', values: ratios(evict, loop, cpu), atMost: 1.2, note: `${millis(evict.map(cpu))} against ${millis(loop.map(cpu))} of the main thread's processor time` }),
      row({ what: `${eviction}: the longest delay of the event loop`, against: 'none', values: evict.map(delay), unit: 'ms', atMost: 50, note: `the loop: ${millis(loop.map(delay))}, the highest of all rounds: ${Math.max(...evict.map(delay)).toFixed(1)} ms` })
    ]
  }
}

/**
 * Measures the processor time of `calls` starts in a registry whose scope has `beside` streams. With `replaces`, each start replaces the
 * oldest of these: V8 moves objects that live as long as the streams here, and a comparison of younger streams would not pay for that.
 */
async function starter (options, beside, calls, replaces = false) {
  const registry = await octaRegistry(options)
  const held = newKeys(beside, SCOPE)
  await registerAll(registry, held, newHolders(beside))
  return async () => {
    const keys = replaces ? renew(held, calls) : newKeys(calls, SCOPE)
    const holders = newHolders(calls)
    const time = await cpuTime(() => registerAll(registry, keys, holders))
    await endAll(holders)
    // Fills the scope again: the starts have ended as many streams.
    const missing = beside - await registry.count(SCOPE)
    await registerAll(registry, replaces ? keys : newKeys(missing, SCOPE), newHolders(missing))
    return time
  }
}

/** Returns new keys for the tabs of the `count` oldest keys, and moves these tabs to the end of `keys`. */
function renew (keys, count) {
  const renewed = keys.splice(0, count).map(({ tabId }) => streamKey(SCOPE, tabId))
  keys.push(...renewed)
  return renewed
}

/** Registers `count` streams of a scope. Measures the processor time of `end`, and how late the event loop is meanwhile. */
async function endOf (registry, count, end) {
  const holders = newHolders(count)
  await registerAll(registry, newKeys(count, SCOPE), holders)
  globalThis.gc()
  const delay = monitorEventLoopDelay({ resolution: 1 })
  delay.enable()
  // The histogram measures from tick to tick.
  await new Promise(resolve => setTimeout(resolve, 20))
  delay.reset()
  const cpu = await mainThreadTime(() => end(holders))
  await new Promise(resolve => setTimeout(resolve, 20))
  delay.disable()
  return { cpu, delay: delay.max / 1e6 - 1 }
}
