// Runs all benchmarks in turn, prints a table, stores the results, and writes RESULTS.md: npm run bench [-- --only NAME] [-- --beside-a-busy-loop]
import { execFileSync, fork } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import os from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { render, store } from './kit/report.js'
import { table } from './kit/table.js'

const BENCHMARKS = ['open-close', 'replace', 'registry', 'elixir', 'scope', 'memory', 'plain-route', 'broadcast', 'cluster-claim', 'cluster-replace', 'cluster-send', 'load', 'scale']

const { values: options } = parseArgs({
  options: {
    only: { type: 'string', multiple: true },
    // Measures beside a process that does nothing but spin.
    'beside-a-busy-loop': { type: 'boolean', default: false },
    // Measures nothing, and writes RESULTS.md and the plots again from the stored results.
    render: { type: 'boolean', default: false },
    // Runs each benchmark for a moment, to check that the benchmark works. The numbers mean nothing.
    moment: { type: 'boolean', default: false },
    // Prints a line of JSON for each benchmark instead of the table.
    json: { type: 'boolean', default: false }
  }
})
const here = name => fileURLToPath(new URL(name, import.meta.url))
const names = options.only ?? BENCHMARKS
const unknown = names.filter(name => !BENCHMARKS.includes(name))
if (unknown.length > 0) {
  console.error(`There is no benchmark ${unknown.join(', ')}: choose of ${BENCHMARKS.join(', ')}`)
  process.exit(1)
}
if (options.render) render()
else await measureAll()

async function measureAll () {
  // The loop ends with this process, whatever happens: see kit/busy.js.
  const busyLoop = options['beside-a-busy-loop'] ? fork(here('kit/busy.js')) : undefined
  // For `awake` in kit/wire.js.
  if (busyLoop !== undefined) process.env.BENCH_BUSY_LOOP = '1'
  const results = []
  for (const name of names) {
    const start = performance.now()
    const result = await runOne(name)
    results.push(result)
    if (options.json) console.log(JSON.stringify(result))
    else console.error(`${name}: ${result.error ?? 'done'}, ${((performance.now() - start) / 1000).toFixed(1)} s`)
  }
  busyLoop?.disconnect()

  const failed = results.filter(({ error }) => error !== undefined)
  const all = {
    rows: results.flatMap(({ rows }) => rows),
    series: results.flatMap(({ series }) => series),
    remarks: [...failed.map(({ name, error }) => `Not measured: ${name} ${error}`), ...results.flatMap(({ remarks }) => remarks)],
    machine: machine()
  }
  if (!options.json) console.log(`\n${[table(all.rows), ...all.remarks, all.machine.join('\n')].join('\n\n')}`)
  if (!options.moment && options.only === undefined) {
    store(options['beside-a-busy-loop'] ? 'beside-a-busy-loop' : 'quiet', all)
    render()
  }
  process.exitCode = failed.length > 0 ? 1 : 0
}

/** The rows of a benchmark, or the reason why the benchmark could not run. */
async function runOne (name) {
  const child = fork(here('kit/one.js'), [name, options.moment ? 'moment' : 'full'], { execArgv: ['--expose-gc'], stdio: ['ignore', 'inherit', 'pipe', 'ipc'] })
  let errors = ''
  let result
  child.stderr.on('data', text => { errors += text })
  child.on('message', message => { result = message })
  const [code] = await once(child, 'close')
  const nothing = { name, rows: [], series: [], remarks: [] }
  if (result !== undefined && code === 0) return { ...nothing, ...result }
  return { ...nothing, error: /^\w*Error: (.*)$/m.exec(errors)?.[1] ?? errors }
}

function machine () {
  const version = name => `${name} ${JSON.parse(readFileSync(here(`../node_modules/${name}/package.json`), 'utf8')).version}`
  const cpus = os.cpus()
  return [
    `${new Date().toISOString().slice(0, 10)}, ${cpus[0].model}, ${cpus.length} cores, ${Math.round(os.totalmem() / 2 ** 30)} GiB, ${os.type()} ${os.release()}`,
    ['node ' + process.versions.node, ...['fastify', '@fastify/sse', 'better-sse', 'ioredis'].map(version), programVersion('redis', 'redis-server', /v=([\d.]+)/), programVersion('elixir', 'elixir', /Elixir ([\d.]+)/)].join(', ')
  ]
}

function programVersion (name, program, pattern) {
  try {
    return `${name} ${pattern.exec(execFileSync(program, ['--version'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }))[1]}`
  } catch {
    return `${name}: not installed here`
  }
}
