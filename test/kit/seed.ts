// Every randomised test takes its seed from here, so that two CI runs draw the same values and a failure prints the command that repeats the run.
import { randomInt } from 'node:crypto'
import { relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { defaultReportMessage, type RunDetails } from 'fast-check'

const DEFAULT_SEED = 1
const root = fileURLToPath(new URL('../..', import.meta.url))

/** From the environment variable OCTA_SEED: a whole number, or `random` for a new seed. A fixed default if the variable is not set. */
export const seed = readSeed(process.env.OCTA_SEED)

function readSeed (value: string | undefined): number {
  if (value === undefined || value === '') return DEFAULT_SEED
  if (value === 'random') return randomInt(2 ** 31 - 1)
  const number = Number(value)
  // fast-check takes a signed 32-bit seed.
  if (!/^\d+$/.test(value) || number >= 2 ** 31) throw new Error(`OCTA_SEED must be 'random' or a whole number below 2147483648, got '${value}'`)
  return number
}

/** The command that repeats a run of the test file `url` (pass `import.meta.url`). To be part of the message of a failure. */
export function repeatWith (url: string, of = seed): string {
  return `repeat it with OCTA_SEED=${of} npm test -- ${relative(root, fileURLToPath(url))}`
}

/** Options for `fc.assert`: sets the seed, and adds the command that repeats the run to the report of a failure. */
export function seeded (url: string): { seed: number, reporter: (run: RunDetails<any>) => void } {
  return {
    seed,
    reporter (run) {
      if (run.failed) throw new Error(`${repeatWith(url)}\n${defaultReportMessage(run)}`, { cause: run.errorInstance })
    }
  }
}
