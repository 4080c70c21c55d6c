// A registry in this process, with keys and holders for many calls of `replaceAndRegister`.
import { readFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import Fastify from 'fastify'
import octaStarStreams, { streamKey } from 'octa-star-streams'

export async function octaRegistry (options) {
  const fastify = Fastify()
  await fastify.register(octaStarStreams, options)
  await fastify.ready()
  return fastify.streamRegistry
}

export class Holder {
  constructor () {
    this.gone = new Promise(resolve => { this.resolve = resolve })
  }

  close (reason) {
    this.resolve(reason)
  }
}

let lastUser = 0

/** Keys of different tabs. Without `scope`, each key has a separate scope. */
export const newKeys = (count, scope) => Array.from({ length: count }, () => streamKey(scope ?? `user${++lastUser}`, `tab${++lastUser}`))
export const newHolders = count => Array.from({ length: count }, () => new Holder())

export async function registerAll (registry, keys, holders) {
  for (let i = 0; i < keys.length; i++) await registry.replaceAndRegister(keys[i], holders[i])
}

/** Ends all holders. Resolves when the registry has forgotten the holders. */
export async function endAll (holders) {
  for (const holder of holders) holder.close('finished')
  await turn()
}

export const turn = () => new Promise(resolve => setImmediate(resolve))

/** The processor time of `task`. The clock would include the turns of neighbouring programs, which take longer than the calls. Unit: milliseconds. */
export async function cpuTime (task) {
  const before = process.cpuUsage()
  await task()
  const { user, system } = process.cpuUsage(before)
  return (user + system) / 1000
}

/**
 * As `cpuTime`, but of the main thread alone. After a forced collection V8 compiles code again on other threads, which a program without forced
 * collections does once. Systems other than Linux count all threads.
 */
export async function mainThreadTime (task) {
  if (process.platform !== 'linux') return cpuTime(task)
  const before = await threadTime()
  await task()
  return await threadTime() - before
}

// Linux brings the time up to date when the thread sleeps: https://www.kernel.org/doc/html/latest/scheduler/sched-stats.html
async function threadTime () {
  await pause(1)
  return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'latin1').split(' ')[0]) / 1e6
}
