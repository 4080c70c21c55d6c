// `replaceAndRegister` in process, against the algorithm of the Elixir library that this plugin takes its idea from: elixir/registry.exs.
import { closing } from './kit/closing.js'
import { startElixir } from './kit/elixir.js'
import { inTurn, median, p50, ratios, row } from './kit/pairs.js'
import { memory } from './kit/processes.js'
import { endAll, newHolders, newKeys, octaRegistry, registerAll, turn } from './kit/registry.js'

export const sizes = {
  // Starts the Elixir program several times, because each start tells once how much memory a key takes.
  full: { starts: 5, rounds: 7, calls: 1_000, sustained: 20_000, held: 100_000 },
  moment: { rounds: 2, calls: 20, sustained: 50, held: 100 }
}

export function measure ({ rounds, calls, sustained, held }) {
  return closing(async keep => {
    const elixir = await startElixir()
    if (elixir === undefined) return {}
    keep(elixir)

    const registry = await octaRegistry()
    const bytes = { octaBytes: [await keptBy(registry, held)], elixirBytes: await elixir.ask('hold', held) }
    const keys = newKeys(calls)
    const replace = () => timedEach(registry, keys, newHolders(calls))
    await replace()
    const contestants = {
      octaFresh: () => freshly(timedEach, registry, calls),
      elixirFresh: () => elixirTimes(elixir, 'fresh', calls),
      octaReplace: replace,
      elixirReplace: () => elixirTimes(elixir, 'replace', calls),
      // So many calls that the garbage they leave is collected within the measured time.
      octaSustained: () => freshly(timed, registry, sustained),
      elixirSustained: async () => (await elixirTimes(elixir, 'fresh', sustained)).reduce((sum, time) => sum + time)
    }
    // Warms up until both sides have compiled the code.
    await inTurn(contestants, 1)
    return { ...await inTurn(contestants, rounds), ...bytes }
  })
}

export function rows ({ octaFresh, elixirFresh, octaReplace, elixirReplace, octaSustained, elixirSustained, octaBytes, elixirBytes }, { sustained, held }) {
  if (elixirBytes === undefined) return { rows: [], remarks: ['Not measured: elixir is not installed'] }
  const what = `\`replaceAndRegister\` in process, ${held.toLocaleString('en')} others held: `
  const against = '`Registry` and `Process.exit` on Elixir'
  const perSecond = time => sustained / time * 1000
  const both = (pick, as, bs, unit) => `${unit(median(as.map(pick)))} against ${unit(median(bs.map(pick)))}`
  const micros = time => `${(time * 1000).toFixed(2)} us`
  const bytes = number => `${Math.round(number)} bytes`
  return {
    rows: [
      row({ what: `${what}fresh registrations a second`, against, values: ratios(octaSustained, elixirSustained, perSecond), above: 1, note: `${both(perSecond, octaSustained, elixirSustained, thousands)} a second`, top: { you: 'get', what: 'registrations of a tab per second, within a process', than: 'the same on Elixir, with `Registry`', value: '{} times as many' } }),
      row({ what: `${what}a fresh one, p50`, against, values: ratios(octaFresh, elixirFresh, p50), below: 1, note: both(p50, octaFresh, elixirFresh, micros) }),
      row({ what: `${what}a replacement, p50`, against, values: ratios(octaReplace, elixirReplace, p50), below: 1, note: both(p50, octaReplace, elixirReplace, micros) }),
      row({ what: `${what}bytes that the registry takes for a held one`, against, values: ratios(octaBytes, elixirBytes), below: 1, note: `${both(number => number, octaBytes, elixirBytes, bytes)}, without holders and their keys. Elixir's registry copies the key, ours refers to the key` })
    ]
  }
}

const thousands = number => (Math.round(number / 1000) * 1000).toLocaleString('en')

async function freshly (measure, registry, calls) {
  const holders = newHolders(calls)
  const result = await measure(registry, newKeys(calls), holders)
  await endAll(holders)
  return result
}

/** The duration of all calls, with the garbage collection that the calls cause. Unit: milliseconds. */
async function timed (registry, keys, holders) {
  const start = performance.now()
  await registerAll(registry, keys, holders)
  return performance.now() - start
}

/** The duration of each call. Unit: milliseconds. */
async function timedEach (registry, keys, holders) {
  const times = []
  for (let i = 0; i < keys.length; i++) {
    const start = performance.now()
    await registry.replaceAndRegister(keys[i], holders[i])
    times.push(performance.now() - start)
  }
  await turn()
  return times
}

/** The same of the Elixir program, which measures in nanoseconds. The messages between its processes do not count. */
async function elixirTimes (elixir, command, calls) {
  return (await elixir.ask(command, calls)).map(time => time / 1e6)
}

/** How much memory the registry takes for a holder, without the holder and the key. Unit: bytes. */
async function keptBy (registry, count) {
  const keys = newKeys(count)
  const holders = newHolders(count)
  const before = memory()
  await registerAll(registry, keys, holders)
  return (memory() - before) / keys.length
}
