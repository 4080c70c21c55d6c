// Runs a program to the end, without the options of the test's process, because coverage is measured elsewhere.
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

export const root = fileURLToPath(new URL('../..', import.meta.url))

/** What a program has printed. */
export interface Output { stdout: string, stderr: string }

/** The error of a program that failed. */
export interface RunError extends Error, Output { code: number }

/** Rejects with a {@link RunError}. Runs in the repository, unless `cwd` names another folder. */
export async function run (file: string, args: string[], options: { cwd?: string, env?: NodeJS.ProcessEnv, timeout?: number } = {}): Promise<Output> {
  // tap patches `execFile` and adds variables to the option `env`, so remove the variables with env(1).
  const command = ['-u', 'NODE_OPTIONS', '-u', 'NODE_V8_COVERAGE', file, ...args]
  return await promisify(execFile)('env', command, { cwd: root, maxBuffer: 1 << 24, ...options })
}
