// A cluster's claim and release, against raw EVALSHA round trips: the same scripts and the same client, with arguments of the same size.
import { streamKey } from 'octa-star-streams'
import { redisCluster } from 'octa-star-streams/redis'
// The package does not export the scripts. The raw contestant must send exactly what the adapter sends.
import { CLAIM, RELEASE } from '../dist/lib/redis/scripts.js'
import { claimCommand, digestOf, fieldName, releaseCommand } from '../dist/lib/redis/protocol.js'
import { closing } from './kit/closing.js'
import { inTurn, median, ratios, row } from './kit/pairs.js'
import { redisClient, startRedis } from './kit/redis.js'

export const sizes = {
  full: { rounds: 40, milliseconds: 150, atOnce: 64, keys: 20_000 },
  moment: { rounds: 2, milliseconds: 30, atOnce: 4, keys: 1_000 }
}

const PREFIX = 'octa-star-bench:'

export function measure ({ rounds, milliseconds, atOnce, keys }) {
  return closing(async keep => {
    const { url } = keep(await startRedis())
    const redis = await redisClient(url, [CLAIM, RELEASE])
    keep({ close: () => redis.disconnect() })
    const member = await redisCluster({ redis, prefix: PREFIX }).join({ log: { warn: console.warn, info () {} }, replaceTimeout: 5_000, deliver: () => 0, list: () => [], offlineDelay: 5_000, observesScopes: () => false, wentOffline () {} })
    keep({ close: () => member.leave() })
    const pool = Array.from({ length: keys }, (_, i) => streamKey(`user${i}`, `tab${i}`))
    const raw = pool.map(key => {
      const place = { digest: digestOf(`raw ${key.scope}`), field: fieldName(key, '', 0), number: 1 }
      const sender = { id: member.id, prefix: PREFIX, lease: 600_000 }
      const claim = claimCommand(sender, place, { at: 1, tolerance: 1e16 })
      const release = releaseCommand(sender, parseInt(place.digest[0], 16), [{ ...place, newest: place.number }])
      return { claim: [claim.script.sha, claim.keys.length, ...claim.keys, ...claim.args], release: [release.script.sha, release.keys.length, ...release.keys, ...release.args] }
    })
    const released = Promise.resolve()
    let last = 0
    // Neither contestant awaits the release, because a new stream does not await it either.
    const viaMember = async () => {
      const claim = { key: pool[++last % keys], end () {}, released }
      await member.claim(claim)
      member.release(claim)
    }
    const viaRaw = async () => {
      const { claim, release } = raw[++last % keys]
      await redis.evalsha(...claim)
      redis.evalsha(...release)
    }
    const perTurn = task => async () => {
      const rate = await perSecond(task, atOnce, milliseconds)
      // Wait until all releases are done, so that they do not slow down the next contestant.
      await new Promise(resolve => setImmediate(resolve))
      await redis.ping()
      return rate
    }
    return await inTurn({ octa: perTurn(viaMember), evalsha: perTurn(viaRaw) }, rounds)
  })
}

export function rows ({ octa, evalsha }, { atOnce }) {
  return {
    rows: [row({ what: 'cluster: claim + release', against: `raw \`EVALSHA\` round trips of the same size, ${atOnce} at once`, values: ratios(octa, evalsha), atLeast: 0.9, note: `throughput, ${Math.round(median(octa)).toLocaleString('en')} against ${Math.round(median(evalsha)).toLocaleString('en')} a second` })]
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
