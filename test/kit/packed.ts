// The packed tarball, and an empty project to install it in.
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import './build.js'

export const root = fileURLToPath(new URL('../..', import.meta.url))

// Without the options of this process: what the programs load is not measured for coverage. tap adds the options to the option `env` of a child.
const WITHOUT_OPTIONS = ['-u', 'NODE_OPTIONS', '-u', 'NODE_V8_COVERAGE']

export const project = await mkdtemp(join(tmpdir(), 'octa-star-streams-'))
t.teardown(() => rm(project, { recursive: true, force: true }))

/** Runs a program in the project, or in `cwd`, and resolves to its standard output. */
export async function run (file: string, args: string[], cwd = project): Promise<string> {
  try {
    return (await promisify(execFile)('env', [...WITHOUT_OPTIONS, file, ...args], { cwd, maxBuffer: 1 << 24 })).stdout
  } catch (error) {
    // The compilers print what is wrong to standard output.
    const { message, stdout } = error as Error & { stdout?: string }
    throw new Error(`${message}\n${stdout}`)
  }
}

/** Writes files of the project. */
export async function write (files: Record<string, string>): Promise<void> {
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(project, path)), { recursive: true })
    await writeFile(join(project, path), text)
  }
}

export async function install (...packages: string[]): Promise<void> {
  await run('npm', ['install', '--no-audit', '--no-fund', ...packages])
}

export const bin = (name: string) => join(root, 'node_modules', '.bin', name)

const [packed] = JSON.parse(await run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', project], root))

export const tarball = join(project, packed.filename)
export const packedFiles: string[] = packed.files.map((file: { path: string }) => file.path)

await write({ 'package.json': '{ "private": true }' })
