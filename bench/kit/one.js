// Runs a single benchmark in a separate process, so that the heap that a benchmark leaves behind does not slow down the next benchmark.
import { measureUntilClear } from './pairs.js'

/** How long a benchmark may take, and for how long it may start its servers again because a row is not clear. Unit: milliseconds. */
const TIMES = {
  full: { limit: 600_000, enough: 150_000 },
  moment: { limit: 60_000, enough: 0 }
}

const [name, size] = process.argv.slice(2)
const { limit, enough } = TIMES[size]
setTimeout(() => { throw new Error(`was not over within ${limit / 1000} s: something that it waits for did not come`) }, limit).unref()
const benchmark = await import(`../${name}.js`)
const { rows, ...rest } = await measureUntilClear(benchmark, benchmark.sizes[size], enough)
process.send({ ...rest, rows: rows.map(({ values, ...row }) => row) })
process.disconnect()
