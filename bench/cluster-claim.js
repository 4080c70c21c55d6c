// A cluster's claim and release, against raw EVALSHA round trips: the same scripts, with arguments of the same size, by the same client.
import { streamKey } from 'octa-star-streams'
import { redisCluster } from 'octa-star-streams/redis'
// Not exported: what it measures against is what these send.
import { CLAIM, RELEASE } from '../dist/lib/redis/scripts.js'
import { fieldName, locateScope } from '../dist/lib/redis/protocol.js'
import { inTurn, median, ratios, row } from './kit/pairs.js'
import { redisClient, startRedis } from './kit/redis.js'

export const sizes = {
  full: { rounds: 25, milliseconds: 300, atOnce: 64, keys: 20_000 },
  moment: { rounds: 2, milliseconds: 30, atOnce: 4, keys: 1_000 }
}

const LEASE_MS = 30_000
const PREFIX = 'octa-star-bench:'
const CHANNELS = `${PREFIX}member:`

export async function run ({ rounds, milliseconds, atOnce, keys }) {
  const server = await startRedis()
  const redis = await redisClient(server.url, [CLAIM, RELEASE])
  const member = await redisCluster({ redis, prefix: PREFIX, lease: LEASE_MS }).join({ log: { warn: console.warn, info () {} }, replaceTimeout: 5_000 })
  try {
    const pool = Array.from({ length: keys }, (_, i) => streamKey(`user${i}`, `tab${i}`))
    const raw = pool.map(key => ({ scope: locateScope(PREFIX, `raw ${key.scope}`).redisKey, field: fieldName(key, '', 0) }))
    const released = Promise.resolve()
    let last = 0
    // Neither waits for its release: the next stream does not.
    const viaMember = async () => {
      const claim = { key: pool[++last % keys], end () {}, released }
      await member.claim(claim)
      member.release(claim)
    }
    const viaRaw = async () => {
      const number = ++last
      const { scope, field } = raw[number % keys]
      await redis.evalsha(CLAIM.sha, 1, scope, field, member.id, number, LEASE_MS, CHANNELS, Date.now() * 1000, 1_000_000)
      redis.evalsha(RELEASE.sha, 1, scope, member.id, field, number)
    }
    const measure = task => async () => {
      const rate = await perSecond(task, atOnce, milliseconds)
      // All releases are done before the other's turn.
      await new Promise(resolve => setImmediate(resolve))
      await redis.ping()
      return rate
    }
    const { octa, evalsha } = await inTurn({ octa: measure(viaMember), evalsha: measure(viaRaw) }, rounds)
    return {
      rows: [row({ what: 'cluster: claim + release', against: `raw \`EVALSHA\` round trips of the same size, ${atOnce} at once`, values: ratios(octa, evalsha), atLeast: 0.8, note: `throughput, ${Math.round(median(octa)).toLocaleString('en')} against ${Math.round(median(evalsha)).toLocaleString('en')} a second` })]
    }
  } finally {
    await member.leave()
    redis.disconnect()
    await server.close()
  }
}

async function perSecond (task, atOnce, milliseconds) {
  const start = performance.now()
  let count = 0
  await Promise.all(Array.from({ length: atOnce }, async () => {
    while (performance.now() - start < milliseconds) {
      await task()
      count++
    }
  }))
  return count / (performance.now() - start) * 1000
}
