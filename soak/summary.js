// The summary of a phase as a table: what the phase did, what was lost, and the memory.
import { RULES } from './ledger.js'
import { curve } from './memory.js'

/** Prints the summary, and returns how much was lost. */
export function printPhase (title, { ledger, samples, allSamples }) {
  console.log(`\n${title}\n${'='.repeat(title.length)}`)
  for (const [what, count] of [...ledger.done].sort(([a], [b]) => a < b ? -1 : 1)) console.log(`${String(count).padStart(9)}  ${what}`)
  const curves = ['heapUsed', 'rss'].map(what => [what, curve(samples, what)])
  for (const [what, { rises, text }] of curves) if (rises) ledger.lost('memory', `${what} ${text}`)
  console.log('\n     lost')
  let lost = 0
  for (const [rule, what] of Object.entries(RULES)) {
    const count = ledger.losses.get(rule) ?? 0
    lost += count
    console.log(`${String(count).padStart(9)}  ${what}`)
  }
  console.log()
  for (const [what, { text }] of curves) console.log(`${what.padEnd(9)} ${text}`)
  const worst = Math.max(...allSamples.map(({ p99 }) => p99))
  const usual = allSamples.map(({ p99 }) => p99).sort((a, b) => a - b)[Math.floor(allSamples.length / 2)]
  console.log(`event loop delay p99, per second: median ${usual.toFixed(1)} ms, worst ${worst.toFixed(1)} ms; streams: at most ${Math.max(...allSamples.map(({ live }) => live))} in a process`)
  return lost
}

/** Prints the first loss of each rule, with the history that may have led to the loss. */
export function printFirsts ({ firsts }) {
  for (const [rule, { detail, key, history }] of firsts) {
    console.error(`\nThe first loss (${rule}): ${detail}\nThe history of ${key === undefined ? 'all' : `the key '${key}'`}, in seconds:`)
    for (const line of history) console.error(line)
  }
}
