// Runs a program of the repository as a child process. The program uses the build, without tap's loaders: other tests measure the coverage.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface, type Interface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import './build.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

export interface Child {
  /** The standard output, line by line. */
  lines: Interface
  /** The standard error so far. */
  errors: () => string
  /** Sends a signal to this process only. */
  signal: (signal: NodeJS.Signals) => void
  /** Resolves to the exit code and the signal, once the process has exited and closed the output. */
  exited: Promise<[code: number | null, signal: NodeJS.Signals | null]>
}

/** Starts `file` with `args`, through the command `via` if given. The environment is PATH and `env` only. Stops the process when the test ends. */
export function startChild (t: Test, file: string, env: Record<string, string> = {}, via: string[] = [], args: string[] = []): Child {
  const variables = Object.entries({ PATH: process.env.PATH, ...env }).map(([name, value]) => `${name}=${value}`)
  // tap patches `spawn` and adds variables to the option `env`, so set the environment with env(1).
  const child = spawn('env', ['-i', ...variables, ...via, process.execPath, file, ...args], { cwd: root })
  let errors = ''
  child.stderr.on('data', text => { errors += text })
  const exited = once(child, 'close') as Child['exited']
  t.teardown(async () => {
    // Some programs first have to close children or frozen connections.
    child.kill('SIGTERM')
    const killing = setTimeout(() => child.kill('SIGKILL'), 30_000)
    await exited
    clearTimeout(killing)
  })
  return { lines: createInterface(child.stdout), errors: () => errors, signal: signal => { child.kill(signal) }, exited }
}

/** Starts an example, and resolves when the example has printed the address of its page. */
export async function startExample (t: Test, file: string, env: Record<string, string> = {}): Promise<Child & { url: string }> {
  const child = startChild(t, file, { PORT: '0', ...env })
  const said = await Promise.race([once(child.lines, 'line'), child.exited])
  const url = /http:\/\/localhost:\d+/.exec(String(said[0]))?.[0]
  if (url === undefined) throw new Error(`${file} did not start: ${child.errors()}`)
  return { ...child, url: url.replace('localhost', '127.0.0.1') }
}
