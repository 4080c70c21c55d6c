// Runs each benchmark for a moment, to test that the benchmarks work. Does not test how fast anything is.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import t from 'tap'
import './kit/build.js'
import { redisOptions } from './kit/redis.ts'
import { run, type RunError } from './kit/run.ts'

// Imported like this, because these modules are not typed.
const { measureUntilClear, row } = await import(String(new URL('../bench/kit/pairs.js', import.meta.url)))
const { render, store } = await import(String(new URL('../bench/kit/report.js', import.meta.url)))

interface Row { what: string, against: string, measured: number, low: number, high: number, pairs: number, limit: Record<string, number> }
interface Result { name: string, rows: Row[], series: object[], remarks: string[], error?: string }

let results: Result[] = []

t.test('every benchmark measures what it says, and loses or doubles no stream', async t => {
  // If a benchmark could not run, the exit code is 1, and the output says which benchmark.
  const { stdout } = await run(process.execPath, ['bench/run.js', '--moment', '--json']).catch((error: RunError) => error)
  results = stdout.trim().split('\n').map((line: string) => JSON.parse(line))
  t.equal(results.length, 13)
  for (const { name, rows, remarks, error } of results) {
    if (name.startsWith('cluster') && redisOptions.skip !== false) {
      t.match(error, /^needs a Redis/)
      t.pass(name, { skip: redisOptions.skip })
      continue
    }
    t.equal(error, undefined, name)
    // Without the program `elixir` the run succeeds all the same.
    if (rows.length === 0) t.strictSame(remarks, ['Not measured: elixir is not installed'], name)
    for (const { what, measured, low, high } of rows) t.ok([measured, low, high].every(Number.isFinite), `${name}: ${what}`)
  }
  for (const name of ['load', 'scale']) {
    const rows = results.find(result => result.name === name)!.rows
    for (const which of ['lost', 'doubled']) t.equal(rows.find(({ what }) => what.includes(`streams ${which}`))?.measured, 0, `${name}: ${which}`)
  }
})

t.test('every benchmark sets at least one limit', async t => {
  for (const { name, rows } of results.filter(({ rows }) => rows.length > 0)) t.ok(rows.some(({ limit }) => Object.keys(limit).length > 0), name)
})

t.test('RESULTS.md shows every row of both runs, ten of them at the top in plain words, and the plots', async t => {
  const directory = t.testdir()
  const stored = { rows: results.flatMap(({ rows }) => rows), series: results.flatMap(({ series }) => series), remarks: ['a remark'], machine: ['a machine'] }
  store('quiet', stored, directory)
  store('beside-a-busy-loop', { ...stored, machine: ['the same machine, busy'] }, directory)
  render(directory)
  const [, top, quiet, busy] = readFileSync(`${directory}/RESULTS.md`, 'utf8').split('\n## ')
  const lines = (text: string) => text.split('\n').filter(line => line.startsWith('| ')).slice(2)
  const missing = ['elixir'].filter(name => results.find(result => result.name === name)!.rows.length === 0).length
  t.equal(lines(top!).length, 10 - missing)
  t.ok(lines(top!).every(line => /^\| (pay|get) /.test(line)))
  for (const [section, machine] of [[quiet!, /- a machine/], [busy!, /- the same machine, busy/]] as const) {
    t.equal(lines(section).length, stored.rows.length)
    t.match(section, /limits hold/)
    t.match(section, machine)
  }
  for (const plot of ['memory', 'replace', 'scaling']) {
    t.match(top, `(${plot}.svg)`)
    t.match(readFileSync(`${directory}/${plot}.svg`, 'utf8'), /<path class="line" d="M[\d.]+ [\d.]+L/, plot)
  }
})

t.test('a benchmark starts again while a limit lies between the quartiles, at most three times as often', async t => {
  async function starts (values: number[], enough: number) {
    let count = 0
    await measureUntilClear({
      measure: async () => ({ values: [values[count++ % values.length]] }),
      rows: ({ values }: { values: number[] }) => ({ rows: [row({ what: 'a', against: 'b', values, atLeast: 1 })] })
    }, { starts: 4 }, enough)
    return count
  }
  t.equal(await starts([1.2, 1.3, 1.4, 1.5], Infinity), 4, 'clearly above')
  t.equal(await starts([0.7, 0.8, 0.9, 0.6], Infinity), 4, 'clearly below')
  t.equal(await starts([0.8, 1.2], Infinity), 12, 'unclear')
  t.equal(await starts([0.8, 1.2, 0.8, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2], Infinity), 8, 'clear after more starts')
  t.equal(await starts([0.8, 1.2], 0), 4, 'unclear, but the time is up')
})

t.test('the busy loop ends with the run', async t => {
  const loop = fork('bench/kit/busy.js')
  const exit = once(loop, 'exit')
  loop.disconnect()
  t.strictSame(await exit, [0, null])
})
