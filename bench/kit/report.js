// RESULTS.md and its plots, made of the stored results of two runs: on a quiet machine, and beside a busy loop.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { plot } from './svg.js'
import { markdown, table } from './table.js'

const BENCH = fileURLToPath(new URL('..', import.meta.url))

const RUNS = {
  quiet: { heading: 'All rows, on a quiet machine', column: 'quiet machine' },
  'beside-a-busy-loop': { heading: 'All rows, beside a busy loop', column: 'beside a busy loop' }
}
const PLOTS = {
  memory: { title: 'Memory of a live stream in the server, by the number of live streams. KiB', text: 'Memory of a live stream, by the number of live streams' },
  replace: { title: 'Median time of a replacement over HTTP, by the number of live streams. Microseconds', text: 'Time of a replacement, by the number of live streams' },
  scaling: { title: 'Time of one call, as a multiple of its time with the fewest streams', text: 'How much longer a call takes with more streams', one: 1 }
}

/** Stores the results of the run `name`, one of `RUNS`. */
export function store (name, results, directory = BENCH) {
  mkdirSync(`${directory}/results`, { recursive: true })
  writeFileSync(`${directory}/results/${name}.json`, JSON.stringify(results, null, 1) + '\n')
}

/** Writes RESULTS.md and the plots, of the quiet run if that is stored. */
export function render (directory = BENCH) {
  const at = name => `${directory}/${name}`
  const runs = Object.entries(RUNS)
    .filter(([name]) => existsSync(at(`results/${name}.json`)))
    .map(([name, titles]) => ({ ...titles, ...JSON.parse(readFileSync(at(`results/${name}.json`), 'utf8')) }))
  if (runs.length === 0) throw new Error('There are no results: run npm run bench first')

  const drawn = Object.keys(PLOTS).filter(name => runs[0].series.some(({ plot }) => plot === name))
  for (const name of drawn) writeFileSync(at(`${name}.svg`), plot(PLOTS[name], runs[0].series.filter(({ plot }) => plot === name)))
  writeFileSync(at('RESULTS.md'), `# Results

Written by \`npm run bench\`. [README.md](README.md) explains how to read a row, and why each comparison is fair.

## What you pay, and what you get

${topTable(runs)}

"Times as many" compares how many a second of the processor is enough for: higher is better. "Times as long" compares times: lower is better.

${drawn.map(name => `![${PLOTS[name].text}](${name}.svg)`).join('\n\n')}

${runs.map(section).join('\n\n')}
`)
}

/** The rows with `top`, in plain words: what you pay first. */
function topTable (runs) {
  const [rows, ...others] = runs.map(({ rows }) => rows.filter(({ top }) => top !== undefined))
  const value = row => row === undefined ? 'not measured' : row.top.value
  const lines = rows.map(row => {
    const same = others.map(rows => rows.find(({ what, against }) => what === row.what && against === row.against))
    return [row.top.you, row.top.what, row.top.than, ...[row, ...same].map(value)]
  })
  const pays = lines.filter(([you]) => you === 'pay')
  return markdown([['you', 'for', 'instead of, or against', ...runs.map(({ column }) => column)], ...pays, ...lines.filter(line => !pays.includes(line))])
}

function section ({ heading, rows, remarks, machine }) {
  const limits = rows.filter(({ limit }) => Object.keys(limit).length > 0)
  const missed = limits.filter(({ reached }) => !reached)
  const summary = missed.length === 0 ? `All ${limits.length} limits hold.` : `${limits.length - missed.length} of ${limits.length} limits hold.`
  return [`## ${heading}`, summary, table(rows), ...remarks, machine.map(line => `- ${line}`).join('\n')].join('\n\n')
}
