// One phase: the servers start, the tabs do as planned, all leave, and nothing may be left.
import { setMaxListeners } from 'node:events'
import { setTimeout as pause } from 'node:timers/promises'
import { Checks } from './checks.js'
import { Excuses } from './excuses.js'
import { befall } from './faults.js'
import { redisServer, session } from './kit.js'
import { Ledger } from './ledger.js'
import { planTabs } from './plan.js'
import { startServers } from './servers.js'
import { clock, HEAL, LEASE, LIMITS, LOOK_MS, replaceTimeoutOf } from './settings.js'
import { Tab } from './tab.js'

/** `duration`: how long tabs act, in milliseconds; to end takes some seconds more. Resolves to the ledger and the samples of the first process. */
export async function runPhase ({ phase, processes, seed, duration, withRedis }) {
  const replaceTimeout = replaceTimeoutOf(processes)
  const ledger = new Ledger(phase)
  const here = session()
  const redis = withRedis ? await redisServer(here) : undefined
  const servers = await startServers(here, processes, replaceTimeout, redis?.port)
  const excuses = new Excuses(ledger, servers, replaceTimeout)
  const checks = new Checks(ledger, servers, excuses, replaceTimeout)
  for (const server of servers) server.onWord = word => checks.hear(server.index, word)
  const looking = setInterval(() => checks.look(), LOOK_MS)
  const watching = redis === undefined ? undefined : watchRedis(redis.client(), excuses)

  const acting = AbortSignal.timeout(duration)
  setMaxListeners(0, acting)
  const tabs = planTabs(seed, phase, processes, replaceTimeout).map(plan => new Tab(plan, servers, ledger))
  await Promise.all([
    ...tabs.map(tab => tab.run(acting)),
    redis === undefined ? undefined : befall({ seed, servers, redis, ledger, checks, excuses, duration: Math.max(duration - HEAL, duration / 2) })
  ])

  // A curve that falls because nobody is there any more would hide one that rises.
  const samples = [...checks.samples]
  await allHeard(ledger, servers)
  await rest(ledger, checks, replaceTimeout)
  for (const tab of tabs) tab.close()
  for (const call of ledger.calls.values()) call.leave()
  await nothingLeft(ledger, servers, tabs.map(({ plan }) => plan.scope), redis)
  await ending(ledger, servers)
  clearInterval(looking)
  clearInterval(watching)
  checks.look(Infinity)
  for (const { id, key, startAt, goneAt, diedAt } of ledger.calls.values()) {
    if (startAt !== undefined && goneAt === undefined && diedAt === undefined) ledger.lost('rest', `${id} was never said to be gone`, key)
  }
  await here.end()
  return { ledger, samples: samples.filter(({ process }) => process === 0), allSamples: samples }
}

// Asked past the networks that fail. A process asks through them, there and back, and thinks it away after replaceTimeout / 2.
function watchRedis (client, excuses) {
  return setInterval(async () => {
    const from = clock()
    const answered = await client.ping().catch(() => {})
    if (answered !== undefined && clock() - from > LOOK_MS) excuses.heldUp(from, clock())
  }, LOOK_MS)
}

/** Everything that was sent to the streams that are open has come to their clients. */
async function allHeard (ledger, servers) {
  for (const server of servers) {
    const sent = await server.get('/sent')
    // What it said comes on other connections.
    await pause(500)
    for (const call of ledger.calls.values()) {
      if (!call.open || call.deaf || call.process !== server.index || sent[call.id] === undefined) continue
      ledger.did('open streams found whole at the end')
      if (call.received < sent[call.id]) ledger.lost('events', `${call.id} is open and has ${call.received} of ${sent[call.id]} events`, call.key)
    }
  }
}

/** Nobody acts: each key comes to rest, with its newest stream, and the checks see it. */
async function rest (ledger, checks, replaceTimeout) {
  ledger.note(undefined, 'nobody acts any more')
  await pause(HEAL + 2 * replaceTimeout + 3_000)
  checks.look()
}

/** When all clients have left. A stream whose cable was pulled lives until it expires. */
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
    keys = await client.keys('*')
  } while (keys.length > 0 && clock() - gone < 2 * LEASE)
  if (keys.length > 0) ledger.lost('rest', `Redis has ${keys.length} keys two leases after`)
}

/** A server that closes ends by itself: no timer, no socket and no listener holds it. */
async function ending (ledger, servers) {
  for (const server of servers) {
    server.down()
    server.signal('SIGTERM')
    const ended = await Promise.race([server.ended(), pause(HEAL, undefined)])
    if (ended === undefined) ledger.lost('rest', `process ${server.index} does not end`)
    else if (ended.code !== 0 || ended.errors !== '') ledger.lost('rest', `process ${server.index} ended with ${ended.code ?? ended.signal}: ${ended.errors}`)
  }
}
