// Runs the tests:
//   npm test                        lint, types and the quick test files
//   npm test -- test/event.test.ts  the named files, without lint, types and coverage. tap's options work too: --grep=farewell
//   npm run test:all                lint, types and all test files, and fails unless they cover all of `lib`
//   npm run test:watch              at each change the quick test files that load a changed file
//   npm run test:watch -- FILES     at each change the named files
import { spawn } from 'node:child_process'
import { readFileSync, readdirSync, watch } from 'node:fs'
import { normalize } from 'node:path'
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
  const built = await run('npm', ['run', '--silent', 'build'])
  // Many tests wait for timers and sockets, so there are more jobs than processor cores.
  const codes = [built === 0 ? await tap(['--jobs=3', ...quickFiles], { OCTA_TESTS: 'quick' }) : built]
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
  const canStripTypes = Boolean(process.features.typescript)
  const stripTypes = '--import=./test/kit/strip-types.js'
  if (args.length === 1 && files.includes(normalize(args[0]))) {
    // A test file is a program that prints TAP. tap's runner takes longer to start than most files take to run.
    const timeout = /^timeout: (\d+)$/m.exec(readFileSync('.taprc', 'utf8'))[1]
    return await run(process.execPath, ['--enable-source-maps', ...canStripTypes ? [] : [stripTypes], args[0]], { TAP_TIMEOUT: timeout, ...env })
  }
  // On Node 20 tap ignores --type-strip-only. The environment variable is how tap turns its compiler off.
  const types = canStripTypes ? ['--type-strip-only'] : ['--test-env=TAP_TYPE_STRIP_ONLY=1', `--node-arg=${stripTypes}`]
  return await run('tap', ['--disable-coverage', ...types, ...args], env)
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
