// The one place from which randomised tests take their seed: a run in CI is the same twice, and a failure says how to repeat it.
import { randomInt } from 'node:crypto'
import { relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { defaultReportMessage, type RunDetails } from 'fast-check'

const DEFAULT_SEED = 1
const root = fileURLToPath(new URL('../..', import.meta.url))

/** What the environment variable OCTA_SEED names: nothing for the default, a whole number, or `random` for a new seed. */
export const seed = readSeed(process.env.OCTA_SEED)

function readSeed (value: string | undefined): number {
  if (value === undefined || value === '') return DEFAULT_SEED
  if (value === 'random') return randomInt(2 ** 31 - 1)
  const number = Number(value)
  // fast-check and libFuzzer take 32 bits.
  if (!/^\d+$/.test(value) || number >= 2 ** 31) throw new Error(`OCTA_SEED must be 'random' or a whole number below 2147483648, got '${value}'`)
  return number
}

/** The command that runs the test file `url` again with the same draws. A test passes `import.meta.url`, and shows the result when it fails. */
export function repeatWith (url: string, of = seed): string {
  return `repeat it with OCTA_SEED=${of} npm test -- ${relative(root, fileURLToPath(url))}`
}

/** The options of `fc.assert` that draw from the seed, and say at a failure how to repeat the run. */
export function seeded (url: string): { seed: number, reporter: (run: RunDetails<any>) => void } {
  return {
    seed,
    reporter (run) {
      if (run.failed) throw new Error(`${repeatWith(url)}\n${defaultReportMessage(run)}`, { cause: run.errorInstance })
    }
  }
}
