// A benchmark's servers as child processes. Each server has a port, and takes commands over Node's channel between parent and child.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

/** Starts `servers/NAME.js`. Throws the reason if the server cannot run. */
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
    /** Runs one of the server's commands in the server. Resolves to the result of the command. */
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

/** In the child: reports that the server listens at `port`, and answers the parent until the parent disconnects. */
export function serve (port, commands = {}) {
  const all = { memory, cpu, ...commands }
  process.on('message', async ({ call, command, argument }) => process.send({ answer: call, value: await all[command](argument) }))
  process.once('disconnect', () => process.exit())
  process.send({ listening: port })
}

/** The memory in use after a full garbage collection. Unit: bytes. */
export function memory () {
  for (let i = 0; i < 3; i++) globalThis.gc()
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

/** The processor time that this process has used so far. Unit: seconds. */
function cpu () {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

/** The memory of `server` when all streams have lived for a second: a stream then takes less memory, and watches its socket. Unit: bytes. */
export async function settledMemory (server) {
  await pause(1_500)
  return await server.ask('memory')
}
