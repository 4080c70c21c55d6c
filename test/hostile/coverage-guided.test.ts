// Fuzzes the code that reads a client's signals and makes the stream key, with coverage as the guide. `npm run fuzz` fuzzes for longer.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { build } from 'esbuild'
import t from 'tap'
import { repeatWith, seed } from '../kit/seed.ts'

const RUNS = Number(process.env.FUZZ_RUNS ?? 30_000)

const require = createRequire(import.meta.url)
const cannotRun = (() => {
  try {
    // The fuzzer of Jazzer.js is a binary for glibc 2.38 or later, macOS and Windows.
    require('@jazzer.js/fuzzer')
    return false
  } catch (error) {
    return `Jazzer.js does not run here: ${String(error).split('\n')[0]}`
  }
})()

// Stops only a test that hangs: a run takes a fraction of a millisecond.
t.setTimeout(300_000 + RUNS * 30)

for (const target of ['signals', 'stream-key']) {
  t.test(`${RUNS} runs of ${target}, seed ${seed}, find nothing`, { skip: cannotRun }, async t => {
    const directory = await mkdtemp(join(tmpdir(), 'octa-star-fuzz-'))
    t.teardown(() => rm(directory, { recursive: true, force: true }))
    const source = join(import.meta.dirname, `${target}.fuzz.ts`)
    const bundle = join(directory, 'octa-star-target.js')
    await build({ entryPoints: [source], outfile: bundle, bundle: true, platform: 'node', format: 'cjs', logLevel: 'error' })
    const corpus = join(directory, 'corpus')
    await mkdir(corpus)
    for (const [i, text] of (require(bundle).corpus as string[]).entries()) await writeFile(join(corpus, String(i)), text)

    // Jazzer's own timeout is an alarm that ends a finished run of more than a few seconds. The time limit of this file replaces the alarm.
    const args = [require.resolve('@jazzer.js/core/dist/cli.js'), bundle, corpus, '--includes', 'octa-star-target', '--sync', '--timeout', '100000000', '--', `-runs=${RUNS}`, `-seed=${seed}`, `-artifact_prefix=${directory}/`]
    // Without the options of this process, because the target does not need the loaders of the tests.
    const child = spawn(process.execPath, args, { cwd: directory, env: { PATH: process.env.PATH } })
    let said = ''
    for (const output of [child.stdout, child.stderr]) output.on('data', text => { said += text })
    const [code, signal] = await once(child, 'close')
    if (code !== 0) t.fail(`ended with ${code ?? signal}: ${said.slice(-3_000)}: ${repeatWith(import.meta.url)}`)
    t.match(said, new RegExp(`Done ${RUNS} runs`), 'the run did not end early')
    const covered = [...said.matchAll(/cov: (\d+)/g)].map(match => Number(match[1]))
    t.ok(covered.at(-1)! > 20, `the code under test is instrumented: ${covered.at(-1)} edges`)
  })
}
