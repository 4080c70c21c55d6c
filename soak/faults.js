// What befalls processes and Redis, one thing after another, as planned.
import { setTimeout as pause } from 'node:timers/promises'
import { planFaults } from './plan.js'
import { clock } from './settings.js'

/** All faults once, with time between them in which nothing is excused. */
const ROUND_MS = 60_000

/** For `duration` milliseconds, each fault as often as another. */
export async function befall ({ seed, servers, redis, ledger, checks, excuses, duration }) {
  const from = clock()
  const rounds = Math.max(1, Math.floor(duration / ROUND_MS))
  const interval = duration / rounds / Object.keys(FAULTS).length
  let number = 0
  for (const step of planFaults(seed)) {
    if (number === rounds * Object.keys(FAULTS).length) return
    await pause(Math.max(0, from + interval * (number++ + 0.3) - clock()))
    await faults[step.fault](step, { servers, redis, ledger, checks, excuses })
    ledger.did(FAULTS[step.fault])
  }
}

const FAULTS = {
  kill: 'killed a process and started it anew',
  close: 'closed a process and started it anew',
  stop: 'stopped a process for a while',
  lose: 'lost messages of Redis',
  cut: 'cut processes off from Redis, and mended it',
  empty: 'killed Redis and started it anew, empty'
}

const faults = {
  async kill ({ victim, lasts }, { servers, ledger, checks }) {
    const server = servers[victim]
    const up = server.down()
    // Of what the others do nothing is excused: a dead process is in nobody's way.
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

  async stop ({ anyone, lasts }, { servers, ledger }) {
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
    // Said again after a second, which is sooner than replaceTimeout: nothing is excused for it.
    for (const { network } of servers) network.loseNext(message)
    ledger.note(undefined, `the next message '${message}' to each process is lost`)
  },

  async cut ({ way, anyone, lasts }, { servers, excuses }) {
    const [how, which] = way.split(' ')
    const cutOff = which === 'all' ? servers : [servers[anyone]]
    const over = excuses.trouble(`Redis: ${way}, process ${which === 'all' ? 'all' : anyone}, for ${lasts} ms`)
    for (const { network } of cutOff) network[how](which === 'all' ? undefined : which)
    await pause(lasts)
    for (const { network } of cutOff) network[how === 'cut' ? 'mend' : 'thaw']()
    over()
  },

  async empty ({ lasts }, { redis, excuses }) {
    const over = excuses.trouble('Redis is killed')
    await redis.kill()
    await pause(lasts / 2)
    await redis.start()
    over()
  }
}
