// Evictions are final: after `evict` has resolved, an evicted stream delivers nothing, whatever happens to the network and to Redis.
import { setTimeout as pause } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { measureDelays, memberProcess } from '../kit/member-process.ts'
import { Random } from '../kit/random.ts'
import { redisProxy } from '../kit/redis-proxy.ts'
import { redisOptions, redisServer } from '../kit/redis.ts'
import { repeatWith, seed } from '../kit/seed.ts'

const SITES = 4
const EVICTIONS = 200 / SITES
// All times are in milliseconds.
/** How long an eviction may take after the network and Redis are whole again, without an outage. */
const LONGEST = 5_000
/** The longest outage of a quarter of the restarts. */
const OUTAGE = 3_000

// Stops only a test that hangs.
t.setTimeout(600_000)

for (let site = 0; site < SITES; site++) {
  t.test(`${EVICTIONS} evictions against an owner whose subscription is cut, a quarter while Redis restarts empty (${site + 1} of ${SITES})`, { ...redisOptions, buffered: true }, t => evictions(t, new Random(seed + site)))
}
t.jobs = SITES

async function evictions (t: Test, random: Random) {
  const server = await redisServer(t)
  const proxy = await redisProxy(t, server.port)
  const owner = await memberProcess(t, server.client({ port: proxy.port }))
  const evictor = await memberProcess(t, server.client())
  const { longest } = measureDelays(t, [])
  let slowest = 0
  let overLimit = -Infinity
  let previousOutage = 0
  let rejected = 0
  let counted = 0
  const late: string[] = []
  for (let i = 0; i < EVICTIONS; i++) {
    // Before each eviction both processes are at rest.
    while (await evictor.registry.count('nobody') !== 0 || evictor.said().at(-1)?.startsWith('Redis is away') === true || owner.said().at(-1)?.startsWith('Redis is away') === true) await pause(10)
    const scope = `user ${random.below(1_000_000)}`
    const tabs = Array.from({ length: 1 + random.below(3) }, (_, tab) => `tab ${tab}`)
    const started = await Promise.all(tabs.map(tab => owner.start(scope, tab)))
    const holders = started.map(({ holder }) => holder)
    while (await evictor.registry.count(scope) < tabs.length) await pause(5)

    const restarts = i % 4 === 0
    const outage = restarts && random.chance(25) ? random.below(OUTAGE) : 0
    // Each client may pause as long as the outage before the next attempt to connect, and the eviction waits as long as its process was
    // disconnected. The eviction after that may still have to wait for the same outage.
    const limit = LONGEST + 3 * Math.max(outage, previousOutage)
    previousOutage = outage
    const disturbed = (async () => {
      await pause(random.below(300))
      proxy.cut('subscribers')
      if (restarts) {
        await pause(random.below(100))
        await server.kill()
        await pause(outage > 0 ? outage : random.below(100))
        await server.start()
      }
      await pause(random.below(300))
      proxy.mend()
    })()
    await pause(random.below(600))
    const resolvedAt = (async () => {
      for (;;) {
        try {
          counted += await evictor.registry.evict(scope)
          return performance.now()
        } catch (error) {
          if ((error as { code?: string }).code !== 'FST_ERR_OCTA_STAR_EVICT') throw error
          rejected++
          await pause(50)
        }
      }
    })()
    await disturbed
    const mendedAt = performance.now()
    const at = await resolvedAt
    const wholeAt = Math.max(at, mendedAt)
    const live = holders.filter(({ endedAt }) => endedAt > at)
    while (holders.some(({ isLive }) => isLive) && performance.now() - wholeAt < 2 * limit) await pause(5)
    const took = performance.now() - mendedAt
    slowest = Math.max(slowest, took)
    overLimit = Math.max(overLimit, took - limit)
    if (live.length > 0) late.push(`eviction ${i}${restarts ? ' with a restart' : ''}: ${live.map(({ endedAt }) => `${Math.round(endedAt - at)} ms`)}`)
    if (holders.some(({ reason }) => reason !== 'evicted')) late.push(`eviction ${i}: ${holders.map(({ reason }) => reason)}`)
  }
  t.comment(`${counted} streams evicted, ${rejected} evictions rejected, the slowest ${Math.round(slowest)} ms after the network was whole`)
  t.strictSame(late, [], `nothing was live after evict had resolved: ${repeatWith(import.meta.url)}`)
  t.ok(overLimit < longest(), `all had ended ${Math.round(slowest)} ms after the network was whole`)
}
