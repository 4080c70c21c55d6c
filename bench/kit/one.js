// Runs a single benchmark in a separate process, so that the heap that a benchmark leaves behind does not slow down the next benchmark.
import { measureUntilClear } from './pairs.js'

/** How long a benchmark may take. Unit: milliseconds. */
const LIMIT = 600_000
/** For how long a benchmark may start its servers again because a row is not clear. Unit: milliseconds. */
const ENOUGH = { full: 150_000, moment: 0 }

const [name, size] = process.argv.slice(2)
setTimeout(() => { throw new Error(`was not over within ${LIMIT / 1000} s: something that it waits for did not come`) }, LIMIT).unref()
const benchmark = await import(`../${name}.js`)
const { rows, ...rest } = await measureUntilClear(benchmark, benchmark.sizes[size], ENOUGH[size])
process.send({ ...rest, rows: rows.map(({ values, ...row }) => row) })
process.disconnect()
