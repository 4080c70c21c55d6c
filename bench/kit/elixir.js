// Runs elixir/registry.exs in a separate process.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import readline from 'node:readline'
import { fileURLToPath } from 'node:url'

/** Resolves to the running program, or to `undefined` if `elixir` is not installed. */
export async function startElixir () {
  const child = spawn('elixir', [fileURLToPath(new URL('../elixir/registry.exs', import.meta.url))], { stdio: ['pipe', 'pipe', 'inherit'] })
  const started = once(child, 'spawn')
  const exited = new Promise(resolve => child.once('exit', resolve))
  try {
    await started
  } catch (error) {
    if (error.code === 'ENOENT') return undefined
    throw error
  }
  const lines = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  return {
    /** Resolves to the numbers that the program answers to a command. */
    async ask (command, count) {
      child.stdin.write(`${command} ${count}\n`)
      const { value, done } = await lines.next()
      if (done) throw new Error(`the Elixir program ended at the command ${command}`)
      return value.split(' ').map(Number)
    },
    async close () {
      child.stdin.end()
      await exited
    }
  }
}
