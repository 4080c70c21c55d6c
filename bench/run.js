// Runs all benchmarks in turn, prints a table, and writes the table to RESULTS.md: npm run bench [-- --only NAME]
import { execFileSync, fork } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { scalingPlot } from './kit/svg.js'
import { table } from './kit/table.js'

const BENCHMARKS = ['open-close', 'replace', 'registry', 'memory', 'plain-route', 'broadcast', 'cluster-claim', 'cluster-replace', 'cluster-send', 'load']

const { values: options } = parseArgs({
  options: {
    only: { type: 'string', multiple: true },
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

/** The rows of a benchmark, or the reason why the benchmark could not run. */
async function runOne (name) {
  const child = fork(here('kit/one.js'), [name, options.moment ? 'moment' : 'full'], { execArgv: ['--expose-gc'], stdio: ['ignore', 'inherit', 'pipe', 'ipc'] })
  let errors = ''
  let result
  child.stderr.on('data', text => { errors += text })
  child.on('message', message => { result = message })
  const [code] = await once(child, 'close')
  if (result !== undefined && code === 0) return { name, series: [], ...result }
  return { name, rows: [], series: [], error: /^\w*Error: (.*)$/m.exec(errors)?.[1] ?? errors }
}

const results = []
for (const name of names) {
  const start = performance.now()
  const result = await runOne(name)
  results.push(result)
  if (options.json) console.log(JSON.stringify(result))
  else console.error(`${name}: ${result.error ?? 'done'}, ${((performance.now() - start) / 1000).toFixed(1)} s`)
}

const notMeasured = results.filter(({ error }) => error !== undefined).map(({ name, error }) => `Not measured: ${name} ${error}`)
const text = [table(results.flatMap(({ rows }) => rows)), ...notMeasured].join('\n\n')
if (!options.json) console.log(`\n${text}\n\n${machine().join('\n')}`)
if (!options.moment && options.only === undefined) {
  const series = results.flatMap(({ series }) => series)
  writeFileSync(here('scaling.svg'), scalingPlot(series))
  writeFileSync(here('RESULTS.md'), `# Results

Written by \`npm run bench\`; [how to read it](README.md).

${text}

![How much longer a call takes with more streams](scaling.svg)

${machine().map(line => `- ${line}`).join('\n')}
`)
}
process.exitCode = notMeasured.length > 0 ? 1 : 0

function machine () {
  const version = name => `${name} ${JSON.parse(readFileSync(here(`../node_modules/${name}/package.json`), 'utf8')).version}`
  const cpus = os.cpus()
  return [
    `${new Date().toISOString().slice(0, 10)}, ${cpus[0].model}, ${cpus.length} cores, ${Math.round(os.totalmem() / 2 ** 30)} GiB, ${os.type()} ${os.release()}`,
    ['node ' + process.versions.node, ...['fastify', '@fastify/sse', 'better-sse', 'ioredis'].map(version), redisVersion()].join(', ')
  ]
}

function redisVersion () {
  try {
    return `redis ${/v=([\d.]+)/.exec(execFileSync('redis-server', ['--version'], { encoding: 'utf8' }))[1]}`
  } catch {
    return 'redis: not installed here'
  }
}
