// Runs a single benchmark in a separate process, so that the heap that a benchmark leaves behind does not slow down the next benchmark.
const LIMIT_MS = { full: 300_000, moment: 30_000 }

const [name, size] = process.argv.slice(2)
setTimeout(() => { throw new Error(`was not over within ${LIMIT_MS[size] / 1000} s: something that it waits for did not come`) }, LIMIT_MS[size]).unref()
const { sizes, run } = await import(`../${name}.js`)
process.send(await run(sizes[size]))
process.disconnect()
