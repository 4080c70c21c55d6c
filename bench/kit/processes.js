// Child processes: a benchmark's servers, each with a port and commands, over Node's own channel between parent and child.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

/** Starts `servers/NAME.js`, or throws what it said that it could not. */
export async function startServer (name, ...args) {
  const child = fork(fileURLToPath(new URL(`../servers/${name}.js`, import.meta.url)), args.map(String), { execArgv: ['--expose-gc', ...process.env.BENCH_SERVER_OPTIONS?.split(' ') ?? []] })
  const exited = once(child, 'exit')
  const answers = new Map()
  let lastCall = 0
  const port = await new Promise((resolve, reject) => {
    exited.then(([code, signal]) => {
      const error = new Error(`the server ${name} ended: ${signal ?? code}`)
      reject(error)
      for (const answer of answers.values()) answer.reject(error)
    })
    child.on('message', ({ listening, answer, value }) => {
      if (listening !== undefined) return resolve(listening)
      answers.get(answer).resolve(value)
      answers.delete(answer)
    })
  })
  return {
    port,
    /** Has the server run one of its commands; resolves to what that returned. */
    ask (command, argument) {
      const call = ++lastCall
      child.send({ call, command, argument })
      return new Promise((resolve, reject) => answers.set(call, { resolve, reject }))
    },
    async close () {
      if (child.connected) child.disconnect()
      await exited
    }
  }
}

/** In the child: says that it listens at `port`, and answers the parent until that hangs up. */
export function serve (port, commands = {}) {
  const all = { memory, cpu, ...commands }
  process.on('message', async ({ call, command, argument }) => process.send({ answer: call, value: await all[command](argument) }))
  process.once('disconnect', () => process.exit())
  process.send({ listening: port })
}

/** What is in use when all that can be is collected. Unit: bytes. */
export function memory () {
  for (let i = 0; i < 3; i++) globalThis.gc()
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

/** What this process has computed so far. Unit: seconds of a processor. */
function cpu () {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}
