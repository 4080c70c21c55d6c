// The packed tarball, and an empty project that installs the tarball.
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t from 'tap'
import './build.js'
import { root, run as runProgram, type RunError } from './run.ts'

export const project = await mkdtemp(join(tmpdir(), 'octa-star-streams-'))
t.teardown(() => rm(project, { recursive: true, force: true }))

/** Runs a program in the project, or in `cwd`, and resolves to the standard output. */
export async function run (file: string, args: string[], cwd = project): Promise<string> {
  try {
    return (await runProgram(file, args, { cwd })).stdout
  } catch (error) {
    // The compilers print their errors to standard output.
    const { message, stdout } = error as RunError
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
