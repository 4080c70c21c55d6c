// One phase: the servers start, the tabs take their planned steps while the faults happen, all clients leave, and nothing may be left.
import { setMaxListeners } from 'node:events'
import { setTimeout as pause } from 'node:timers/promises'
import { AT_REST, Checks } from './checks.js'
import { Excuses } from './excuses.js'
import { befall } from './faults.js'
import { redisServer, session } from './kit.js'
import { Lateness } from './lateness.js'
import { Ledger } from './ledger.js'
import { planTabs } from './plan.js'
import { startServers } from './servers.js'
import { clock, HEAL, LEASE, LIMITS, LOOK_MS, replaceTimeoutOf } from './settings.js'
import { Tab } from './tab.js'

/**
 * `duration` sets the number of steps and faults, see `plan.js`: on an idle machine the pauses between the steps take that long. Unit: milliseconds.
 * Calls `onProgress` after each planned step, fault and stage of the end. Resolves to the ledger and the samples of the first process.
 */
export async function runPhase ({ phase, processes, seed, duration, withRedis, onProgress }) {
  const replaceTimeout = replaceTimeoutOf(processes)
  const ledger = new Ledger(phase)
  const here = session()
  const redis = withRedis ? await redisServer(here) : undefined
  const servers = await startServers(here, processes, { seed, replaceTimeout, redisPort: redis?.port })
  const lateness = new Lateness()
  const excuses = new Excuses(ledger, servers, replaceTimeout, lateness)
  const checks = new Checks(ledger, servers, excuses, replaceTimeout)
  for (const server of servers) server.onWord = word => checks.hear(server.index, word)
  const looking = setInterval(() => checks.look(), LOOK_MS)
  const watching = redis === undefined ? undefined : watchRedis(redis.client(), excuses)

  const acting = new AbortController()
  setMaxListeners(0, acting.signal)
  const tabs = planTabs(seed, phase, processes, replaceTimeout).map(plan => new Tab(plan, servers, ledger))
  const planned = tabs.map(tab => tab.doPlanned(duration, onProgress))
  // A tab that is through goes on, so that the load stays the same until every tab and the faults are through.
  const further = tabs.map(async (tab, i) => {
    await planned[i]
    await tab.goOn(acting.signal)
  })
  await Promise.all([
    ...planned,
    redis === undefined ? undefined : befall({ seed, servers, redis, ledger, checks, excuses, duration: Math.max(duration - HEAL, duration / 2), onProgress })
  ])
  acting.abort()
  await Promise.all(further)
  onProgress()

  // Without later samples: a curve that falls because the clients have left would hide a curve that rises.
  const samples = [...checks.samples]
  await allHeard(ledger, servers)
  onProgress()
  await rest(ledger, checks, tabs, replaceTimeout)
  onProgress()
  for (const tab of tabs) tab.close()
  for (const call of ledger.calls.values()) call.leave()
  await nothingLeft(ledger, servers, tabs.map(({ plan }) => plan.scope), redis)
  onProgress()
  await ending(ledger, servers)
  onProgress()
  clearInterval(looking)
  clearInterval(watching)
  lateness.stop()
  checks.look(Infinity)
  checks.deliveries.end(duration)
  checks.presence.end()
  for (const { id, key, startAt, goneAt, diedAt } of ledger.calls.values()) {
    if (startAt !== undefined && goneAt === undefined && diedAt === undefined) ledger.lost('rest', `${id} was never said to be gone`, key)
  }
  await here.end()
  return { ledger, samples: samples.filter(({ process }) => process === 0), allSamples: samples }
}

// Asks Redis directly. The processes ask through networks that fail, and take Redis to be away after half of `replaceTimeout`.
function watchRedis (client, excuses) {
  return setInterval(async () => {
    const from = clock()
    const answered = await client.ping().catch(() => {})
    if (answered !== undefined && clock() - from > LOOK_MS) excuses.heldUp(from, clock())
  }, LOOK_MS)
}

/** Every event that was sent to an open stream has reached the client. */
async function allHeard (ledger, servers) {
  for (const server of servers) {
    const sent = await server.get('/sent')
    const open = () => [...ledger.calls.values()].filter(call => call.open && !call.deaf && call.process === server.index && sent[call.id] !== undefined)
    // The numbers and the events come on different connections.
    for (const from = clock(); open().some(call => call.received < sent[call.id]) && clock() - from < HEAL;) await pause(50)
    for (const call of open()) {
      ledger.did('open streams found whole at the end')
      if (call.received < sent[call.id]) ledger.lost('events', `${call.id} is open and has ${call.received} of ${sent[call.id]} events`, call.key)
    }
  }
}

/** No tab acts: each key comes to rest with the newest stream, and the checks look at the keys. */
async function rest (ledger, checks, tabs, replaceTimeout) {
  ledger.note(undefined, 'no tab acts any more')
  const looks = () => ledger.done.get(AT_REST) ?? 0
  for (const before = looks(); ;) {
    await pause(HEAL + 2 * replaceTimeout + 3_000)
    checks.look()
    if (looks() > before) return
    // The machine held up a process, so no key could be looked at before the streams expired.
    await Promise.all(tabs.map(tab => tab.reopen()))
  }
}

/** After all clients have left. A stream whose cable was pulled lives until the stream expires. */
async function nothingLeft (ledger, servers, scopes, redis) {
  const from = clock()
  const query = new URLSearchParams({ scopes: [...new Set(scopes)].join() })
  for (const server of servers) {
    let left
    do {
      await pause(200)
      left = await server.get(`/rest?${query}`)
    } while (Object.values(left).some(count => count > 0) && clock() - from < LIMITS.maxAge + HEAL)
    for (const [what, count] of Object.entries(left)) if (count > 0) ledger.lost('rest', `process ${server.index} has ${what} ${count}`)
  }
  if (redis === undefined) return
  const client = redis.client()
  const gone = clock()
  let keys
  do {
    await pause(100)
    // The mark of an eviction lives longer than a soak. A process without streams has a record in bucket 0, and is in the lists of processes.
    keys = (await client.keys('*')).filter(key => !/:evicted$|\{0\}:member:[^:]+$|\{0\}:(members|watchers)$/.test(key))
  } while (keys.length > 0 && clock() - gone < 2 * LEASE)
  if (keys.length > 0) ledger.lost('rest', `Redis has ${keys.length} keys two leases after`)
}

/** A server that closes ends by itself: no timer, no socket and no listener keeps the process running. */
async function ending (ledger, servers) {
  for (const server of servers) {
    server.down()
    server.signal('SIGTERM')
    const ended = await Promise.race([server.ended(), pause(HEAL, undefined)])
    if (ended === undefined) ledger.lost('rest', `process ${server.index} does not end`)
    else if (ended.code !== 0 || ended.errors !== '') ledger.lost('rest', `process ${server.index} ended with ${ended.code ?? ended.signal}: ${ended.errors}`)
  }
}
