// A program of the repository as a child process, on the build: without tap's loaders, for what runs there other tests cover as source.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface, type Interface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'

const root = fileURLToPath(new URL('../..', import.meta.url))

export interface Child {
  /** Its standard output, line by line. */
  lines: Interface
  /** What it has written to its standard error so far. */
  errors: () => string
  /** Sends a signal: a process is ended by its own pid alone. */
  signal: (signal: NodeJS.Signals) => void
  /** Resolves to its exit code and signal, when it has closed its output as well. */
  exited: Promise<[code: number | null, signal: NodeJS.Signals | null]>
}

/** Starts `file` with `args`, by way of the command `via` if need be, and ends it when the test does. It gets no more of the environment than PATH and `env`. */
export function startChild (t: Test, file: string, env: Record<string, string> = {}, via: string[] = [], args: string[] = []): Child {
  const variables = Object.entries({ PATH: process.env.PATH, ...env }).map(([name, value]) => `${name}=${value}`)
  // Not by the option `env`: tap adds its own to that.
  const child = spawn('env', ['-i', ...variables, ...via, process.execPath, file, ...args], { cwd: root })
  let errors = ''
  child.stderr.on('data', text => { errors += text })
  const exited = once(child, 'close') as Child['exited']
  t.teardown(async () => {
    // Some have children or frozen connections of their own to close.
    child.kill('SIGTERM')
    const killing = setTimeout(() => child.kill('SIGKILL'), 3_000)
    await exited
    clearTimeout(killing)
  })
  return { lines: createInterface(child.stdout), errors: () => errors, signal: signal => { child.kill(signal) }, exited }
}

/** Starts an example, and resolves when it says where it is. */
export async function startExample (t: Test, file: string, env: Record<string, string> = {}): Promise<Child & { url: string }> {
  const child = startChild(t, file, { PORT: '0', ...env })
  const said = await Promise.race([once(child.lines, 'line'), child.exited])
  const url = /http:\/\/localhost:\d+/.exec(String(said[0]))?.[0]
  if (url === undefined) throw new Error(`${file} did not start: ${child.errors()}`)
  return { ...child, url: url.replace('localhost', '127.0.0.1') }
}
