// The planned faults of processes and of Redis, in their order.
import { setTimeout as pause } from 'node:timers/promises'
import { FAULTS, planFaults } from './plan.js'
import { clock, LOOK_MS } from './settings.js'

/** How long a round of all faults may take, with the pauses between the faults. */
const ROUND_MS = 60_000
/** The pause after a fault, as a part of the time between the starts of two faults. */
const PAUSE_SHARE = 0.6

/** Each fault happens as often as fits into `duration` on an idle machine, and at least once. A busy machine takes longer. Unit: milliseconds. */
export async function befall ({ seed, servers, redis, ledger, checks, excuses, duration, onProgress }) {
  const rounds = Math.max(1, Math.floor(duration / ROUND_MS))
  const pauseAfter = duration / rounds / FAULTS.length * PAUSE_SHARE
  await untilUnexcused(checks, pauseAfter)
  for (const step of planFaults(seed, rounds)) {
    await faults[step.fault](step, { servers, redis, ledger, checks, excuses })
    ledger.did(DONE[step.fault])
    onProgress()
    await untilUnexcused(checks, pauseAfter)
    onProgress()
  }
}

/** Resolves when a stream has started and opened while nothing was excused, and not before `atLeast` milliseconds. */
async function untilUnexcused (checks, atLeast) {
  const from = clock()
  await pause(atLeast)
  while (checks.unexcusedAt < from) await pause(LOOK_MS)
}

const DONE = {
  kill: 'killed and restarted a process',
  close: 'closed and restarted a process',
  stop: 'stopped a process for a while',
  lose: 'lost messages of Redis',
  cut: 'cut processes off from Redis, and reconnected them',
  empty: 'killed Redis and restarted an empty Redis'
}

const faults = {
  async kill ({ victim, lasts }, { servers, ledger, checks }) {
    const server = servers[victim]
    const up = server.down()
    // Nothing that the living processes do is excused: a dead process delays nobody.
    ledger.note(undefined, `process ${victim} is killed`)
    const at = clock()
    server.signal('SIGKILL')
    await server.ended()
    checks.died(victim, at)
    await pause(lasts / 2)
    await server.start()
    up()
    ledger.note(undefined, `process ${victim} is back`)
  },

  async close ({ victim }, { servers, ledger, checks }) {
    const server = servers[victim]
    const up = server.down()
    ledger.note(undefined, `process ${victim} closes`)
    server.closingSince = clock()
    server.signal('SIGTERM')
    const { code, errors } = await server.ended()
    if (code !== 0 || errors !== '') ledger.lost('faults', `process ${victim} closed with ${code}: ${errors}`)
    checks.died(victim, clock())
    await server.start()
    up()
    ledger.note(undefined, `process ${victim} is back`)
  },

  async stop ({ anyone, lasts: drawn }, { servers, ledger }) {
    // Shorter than Redis keeps a process's records: nothing waits for a process without records.
    const lasts = drawn / 2
    const server = servers[anyone]
    const up = server.down()
    ledger.note(undefined, `process ${anyone} is stopped for ${lasts} ms`)
    server.signal('SIGSTOP')
    await pause(lasts)
    server.signal('SIGCONT')
    up()
    ledger.note(undefined, `process ${anyone} goes on`)
  },

  async lose ({ message }, { servers, ledger }) {
    // The plugin repeats a request after a second, sooner than `replaceTimeout`, so a lost request excuses nothing.
    for (const server of servers) server.loseNext(message)
    ledger.note(undefined, `the next message '${message}' to each process is lost`)
  },

  async cut ({ way, anyone, lasts }, { servers, excuses }) {
    const [how, which] = way.split(' ')
    const cutOff = which === 'all' ? servers : [servers[anyone]]
    const over = excuses.trouble('processes were cut off from Redis', `${way}, process ${which === 'all' ? 'all' : anyone}, for ${lasts} ms`)
    for (const { network } of cutOff) network[how](which === 'all' ? undefined : which)
    await pause(lasts)
    for (const { network } of cutOff) network[how === 'cut' ? 'mend' : 'thaw']()
    over()
  },

  async empty ({ lasts }, { redis, excuses }) {
    const over = excuses.trouble('Redis was killed')
    await redis.kill()
    await pause(lasts / 2)
    await redis.start()
    over()
  }
}
