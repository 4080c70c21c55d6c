// Runs the tests:
//   npm test                        lint, types and the quick test files
//   npm test -- test/event.test.ts  the named files, without lint, types and coverage. tap's options work too: --grep=farewell
//   npm run test:all                lint, types and all test files, and fails unless they cover all of `lib`
//   npm run test:watch              at each change the quick test files that load a changed file
//   npm run test:watch -- FILES     at each change the named files
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, readdirSync, watch } from 'node:fs'
import { normalize } from 'node:path'
import { pathToFileURL } from 'node:url'
import { installPrograms, missingPrograms } from './kit/debian.js'
// Writes lib/browser-module.ts, which the sources import.
import '../scripts/browser-module.js'

// `npm test` runs every test file that is not in this list. The list names the files that drive other programs, that need the registry, or
// that run for long. If a quick file has a few tests that drive another program, `npm test` skips these tests: see kit/programs.ts.
const ONLY_IN_TEST_ALL = [
  'bench', 'browser/broken-off', 'browser/datastar', 'browser/demo', 'browser/endings', 'browser/event-source', 'browser/examples', 'browser/recipes', 'browser/tab-id', 'browser-module', 'bundles', 'closing', 'cluster/clients', 'cluster/conformance', 'cluster/costs', 'cluster/evictions',
  'cluster/failovers', 'cluster/faults', 'cluster/namespaces', 'cluster/nodes', 'cluster/presence', 'cluster/processes', 'cluster/reach', 'cluster/redis', 'cluster/redis-cluster', 'cluster/refusals', 'cluster/scaling',
  'cluster/scripts', 'cluster/servers', 'cluster/simulation', 'cluster/standstill', 'conformance', 'dead-peer', 'demo', 'draw-streams', 'guide',
  'hostile/coverage-guided', 'hostile/exhaustion', 'hostile/fuzz', 'hostile/injection', 'large-scopes', 'limit-costs', 'memory', 'nestjs', 'nginx', 'package', 'pm2', 'recipes', 'reference', 'rules/no-leak', 'runtimes', 'slow-clients', 'soak', 'typescript-examples'
].map(name => `test/${name}.test.ts`)

const canStripTypes = Boolean(process.features.typescript)
const stripTypes = '--import=./test/kit/strip-types.js'
const nodeOptions = ['--enable-source-maps', ...canStripTypes ? [] : [stripTypes]]
// A test file's limit, in seconds.
const timeout = /^timeout: (\d+)$/m.exec(readFileSync('.taprc', 'utf8'))[1]

const [, , ...args] = process.argv
const mode = ['--all', '--watch'].includes(args[0]) ? args.shift() : '--quick'
const files = readdirSync('test', { recursive: true }).map(name => `test/${name}`).filter(name => name.endsWith('.test.ts'))
const quickFiles = files.filter(name => !ONLY_IN_TEST_ALL.includes(name))
const unknown = ONLY_IN_TEST_ALL.filter(name => !files.includes(name))
if (unknown.length > 0) throw new Error(`test/run.js lists ${unknown.join(', ')}, but there is no such test file`)

if (mode === '--all') await testAll()
else if (mode === '--watch') await testAtEachChange()
else if (args.length > 0) process.exitCode = await tap(args)
else await testQuickly()

async function testQuickly () {
  // The linter and the compiler run beside the tests. What they print comes last, where it is seen.
  const checks = ['lint', 'test:types'].map(script => collect('npm', ['run', '--silent', script]))
  const [built] = await Promise.all([run('npm', ['run', '--silent', 'build']), canStripTypes || stripTypesOnce()])
  const codes = [built === 0 ? await tapQuickFiles() : built]
  for (const { code, output } of await Promise.all(checks)) {
    process.stdout.write(output)
    codes.push(code)
  }
  process.exitCode = codes.find(code => code !== 0) ?? 0
}

async function testAll () {
  for (const script of ['lint', 'build', 'test:types']) {
    const code = await run('npm', ['run', '--silent', script])
    if (code !== 0) process.exit(code)
  }
  installPrograms()
  // Without the options of `tap` below: coverage is measured with tap's own compiler.
  process.exitCode = await run('tap', args, { OCTA_TESTS: 'all' })
  // The output has thousands of lines, and a CI service may show the last ones only.
  if (process.exitCode !== 0) await run('tap', ['replay', '--reporter=terse'])
  const missing = missingPrograms()
  if (missing !== undefined) console.log(missing)
}

async function testAtEachChange () {
  // With --changed tap compares the files that each test loaded in the last run.
  const what = args.length > 0 ? args : ['--changed', ...quickFiles]
  let noteChange
  for (const folder of ['lib', 'types', 'test', 'examples']) watch(folder, { recursive: true }, () => noteChange?.())
  for (;;) {
    const change = new Promise(resolve => { noteChange = resolve })
    await tap(what, args.length > 0 ? {} : { OCTA_TESTS: 'quick' })
    console.log('Waiting for a change')
    await change
    // An editor may write a file in several steps.
    await new Promise(resolve => setTimeout(resolve, 100))
  }
}

/** Runs tests for speed: without coverage, and without the TypeScript compiler. */
async function tap (args, env) {
  // A test file is a program that prints TAP. tap's runner takes longer to start than most files take to run.
  if (args.length === 1 && files.includes(normalize(args[0]))) return await run(process.execPath, [...nodeOptions, args[0]], { TAP_TIMEOUT: timeout, ...env })
  // On Node 20 tap ignores --type-strip-only. The environment variable is how tap turns its compiler off.
  const types = canStripTypes ? ['--type-strip-only'] : ['--test-env=TAP_TYPE_STRIP_ONLY=1', `--node-arg=${stripTypes}`]
  return await run('tap', ['--disable-coverage', ...types, ...args], env)
}

/**
 * Runs the quick test files with tap, without the loader that tap's runner puts into each process to see which files the test loads. The loader
 * takes longer to start than many files take to run.
 */
async function tapQuickFiles () {
  const { t } = await import('tap')
  // Each file has its own limit.
  t.setTimeout(0)
  // Many tests wait for timers and sockets, so there are more jobs than processor cores.
  t.jobs = 3
  let reported
  if (process.stdout.isTTY) {
    const reporter = spawn('tap', ['-'], { stdio: ['pipe', 'inherit', 'inherit'] })
    reported = once(reporter, 'exit')
    t.pipe(reporter.stdin)
  }
  for (const file of quickFiles) {
    // tap passes the loader on in NODE_OPTIONS.
    const command = [`NODE_OPTIONS=${process.env.NODE_OPTIONS ?? ''}`, process.execPath, ...nodeOptions, file]
    t.spawn('env', command, { env: { ...process.env, OCTA_TESTS: 'quick', TAP_TIMEOUT: timeout }, timeout: timeout * 1000, buffered: true }, file)
  }
  t.end()
  await t.promise()
  await reported
  return t.passing() ? 0 : 1
}

/** Keeps the JavaScript of the quick test files and the sources on disk. Otherwise each test process starts a compiler of its own. */
async function stripTypesOnce () {
  const { stripped } = await import('./kit/stripped.js')
  const sources = ['lib', 'types', 'test'].flatMap(folder => readdirSync(folder, { recursive: true }).map(name => `${folder}/${name}`)).filter(name => /(?<!\.d)\.ts$/.test(name) && !ONLY_IN_TEST_ALL.includes(name))
  // A file with a mistake fails when a test loads the file.
  await Promise.allSettled(sources.map(name => stripped(pathToFileURL(name).href)))
}

function run (command, args, env = {}) {
  const child = spawn(command, args, { stdio: 'inherit', env: { ...process.env, ...env } })
  return new Promise(resolve => child.once('exit', code => resolve(code ?? 1)))
}

/** Runs a program and keeps its output. */
async function collect (command, args) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  const chunks = []
  for (const stream of [child.stdout, child.stderr]) stream.on('data', chunk => chunks.push(chunk))
  const code = await new Promise(resolve => child.once('close', resolve))
  return { code: code ?? 1, output: Buffer.concat(chunks) }
}
