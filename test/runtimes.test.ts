// The same program, from a stream's first request to the shutdown, in Node, Bun and Deno.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import './kit/build.js'
import { root, run as runProgram } from './kit/run.ts'

const folder = await mkdtemp(join(tmpdir(), 'octa-star-streams-'))
t.teardown(() => rm(folder, { recursive: true, force: true }))
// Without a cache in the user's home. The runtimes must not look for updates.
const env = { ...process.env, DENO_DIR: join(folder, 'deno'), DENO_NO_UPDATE_CHECK: '1', BUN_RUNTIME_TRANSPILER_CACHE_PATH: '0' }
const run = async (file: string, args: string[], options: object = {}) => (await runProgram(file, args, { env, timeout: 120_000, ...options })).stdout

/** The command of a runtime: its executable, from npm's package with the same name, and the arguments before the program. */
const RUNTIMES = { 'bun@1.4.5': ['bun'], 'deno@2.9.6': ['deno', 'run', '--allow-all'] }
const END_OF_EACH_STREAM = ['replaced', 'evicted', 'disconnected', 'stalled', 'failed', 'shutdown']

/** Resolves to what the program prints, also if the program fails. */
async function live (file: string, args: string[] = []): Promise<unknown> {
  return JSON.parse(await run(file, [...args, 'test/kit/life-cycle-program.js']).catch(error => error.stdout || JSON.stringify(String(error))))
}

/** Installs a runtime. Returns the reason if npm lacks a package of the runtime for this machine. */
async function install (name: string, executable: string): Promise<string | undefined> {
  const project = join(folder, executable)
  try {
    await writeFile(join(folder, 'package.json'), '{ "private": true }')
    await run('npm', ['install', '--no-audit', '--no-fund', '--prefix', project, name], { cwd: folder })
    await run(join(project, 'node_modules', '.bin', executable), ['--version'])
  } catch (error) {
    // In CI a test fails if the program is missing.
    if (process.env.CI === 'true') throw error
    return `npm does not install ${name} on this machine`
  }
}

// Before the first test, because tap ends when no test is left.
const missing = new Map<string, string | undefined>()
for (const [name, [executable]] of Object.entries(RUNTIMES)) missing.set(name, await install(name, executable!))

t.test(`Node ${process.version}`, async t => {
  t.strictSame(await live(process.execPath), END_OF_EACH_STREAM)
})

for (const [name, [executable, ...args]] of Object.entries(RUNTIMES)) {
  t.test(name, { skip: missing.get(name) ?? false }, async t => {
    const file = join(folder, executable!, 'node_modules', '.bin', executable!)
    t.strictSame(await live(file, args), END_OF_EACH_STREAM)
  })
}

t.test('the README names these runtimes', async t => {
  const readme = await readFile(join(root, 'README.md'), 'utf8')
  const [bun, deno] = Object.keys(RUNTIMES).map(name => name.split('@')[1]!.split('.'))
  t.ok(readme.includes(`Bun ${bun![0]}.${bun![1]}, Deno ${deno![0]}:`))
})
