// Runs each benchmark for a moment, to test that the benchmarks work. Does not test how fast anything is.
import t from 'tap'
import './kit/build.js'
import { redisOptions } from './kit/redis.ts'
import { run, type RunError } from './kit/run.ts'

interface Result {
  name: string
  rows: Array<{ what: string, measured: number, low: number, high: number, pairs: number }>
  notMeasured: string[]
  error?: string
}

t.test('every benchmark measures what it says, and loses or doubles no stream', async t => {
  // If a benchmark could not run, the exit code is 1, and the output says which benchmark.
  const { stdout } = await run(process.execPath, ['bench/run.js', '--moment', '--json']).catch((error: RunError) => error)
  const results: Result[] = stdout.trim().split('\n').map((line: string) => JSON.parse(line))
  t.equal(results.length, 12)
  for (const { name, rows, notMeasured, error } of results) {
    if (name.startsWith('cluster') && redisOptions.skip !== false) {
      t.match(error, /^needs a Redis/)
      t.pass(name, { skip: redisOptions.skip })
      continue
    }
    t.equal(error, undefined, name)
    // Without the program `elixir` the run succeeds, and a line says that the benchmark did not measure.
    if (notMeasured.length > 0) t.match(notMeasured.join(), /^Not measured: elixir is not installed$/, name)
    else t.ok(rows.length > 0, name)
    for (const { what, measured, low, high } of rows) t.ok([measured, low, high].every(Number.isFinite), `${name}: ${what}`)
  }
  const load = results.find(({ name }) => name === 'load')!.rows
  for (const which of ['lost', 'doubled']) {
    t.equal(load.find(({ what }) => what.includes(`streams ${which}`))?.measured, 0, which)
  }
})
