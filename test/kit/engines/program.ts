// A browser or a driver as a child process: with a folder of its own, and ended with the test.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'

/** Makes a folder that is removed when the test ends. */
export async function folder (t: Test, name: string): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), `octa-star-${name}-`))
  t.teardown(() => rm(path, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 }))
  return path
}

// A test that is broken off has no teardown.
const killAtExit = new Set<() => unknown>()
const killAll = () => { for (const kill of killAtExit) kill() }
process.on('exit', killAll)
for (const signal of ['SIGHUP', 'SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    killAll()
    process.kill(process.pid, signal)
  })
}

export interface Program {
  child: ChildProcess
  /** What the program has written so far. */
  output: () => string
  /** Throws if the program has exited. For loops that wait for what the program does. */
  mustRun: () => void
  /** Resolves to the match as soon as the output matches. Rejects if the program exits before. */
  says: (pattern: RegExp) => Promise<RegExpExecArray>
  /** Ends the program and all its processes, and resolves when the program has exited. */
  kill: () => Promise<void>
}

/** Starts a program, and kills the program with its child processes when the test ends. `home` keeps the user's own settings out. */
export function start (t: Test, home: string, command: string, args: string[], env: Record<string, string> = {}): Program {
  // With `detached` the program leads a process group, so that its child processes can be ended with it.
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true, env: { ...process.env, HOME: home, XDG_CONFIG_HOME: home, XDG_CACHE_HOME: home, XDG_RUNTIME_DIR: home, ...env } })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', text => { output += text })
  const exited = once(child, 'exit')
  const kill = async () => {
    killAtExit.delete(kill)
    try {
      process.kill(-child.pid!, 'SIGKILL')
    } catch {} // All of them have exited.
    if (child.exitCode === null && child.signalCode === null) await exited
  }
  t.teardown(kill)
  killAtExit.add(kill)
  const mustRun = () => {
    if (child.exitCode !== null || child.signalCode !== null) throw new Error(`${command} has ended (${child.exitCode ?? child.signalCode}): ${output.slice(-2000)}`)
  }
  return {
    child,
    output: () => output,
    mustRun,
    async says (pattern) {
      for (;;) {
        const match = pattern.exec(output)
        if (match !== null) return match
        mustRun()
        const controller = new AbortController()
        const { signal } = controller
        await Promise.race([once(child.stdout, 'data', { signal }), once(child.stderr, 'data', { signal }), exited])
        controller.abort()
      }
    },
    kill
  }
}
