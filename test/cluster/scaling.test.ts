// What a stream costs Redis, as the README's section "Scaling" says: its bytes, its commands, and its share of Redis's one thread.
import { readFile } from 'node:fs/promises'
import { setImmediate as turn, setTimeout as pause } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import t from 'tap'
import { redisCluster } from '../../lib/redis/index.ts'
import { streamKey } from '../../lib/stream-key.ts'
import type { ClusterClaim } from '../../types/cluster.ts'
import { memoryLog } from '../kit/memory-log.ts'
import { redisOptions, redisServer } from '../kit/redis.ts'

const STREAMS = 20_000
const LEASE = 4_000
// Redis's own account of its time, of which a busy machine's is a multiple.
const TIME_BOUND = 5

const readme = await readFile(new URL('../../README.md', import.meta.url), 'utf8')
const [, perOne, perFive, micros] = /\| memory \| (\d+) bytes .*, (\d+) .*five[^]*?about (\d+) µs/.exec(readme)!.map(Number) as [number, number, number, number]

for (const [tabs, bytes] of [[1, perOne], [5, perFive]] as const) {
  t.test(`with ${tabs} to a user a stream takes ${bytes} bytes at the most, one command at its start, one at its end, and two renewals a lease`, redisOptions, async t => {
    const server = await redisServer(t)
    const admin = server.client()
    const cluster = await redisCluster({ redis: server.client(), lease: LEASE }).join({ log: memoryLog().log, replaceTimeout: 5_000 })
    const gone = new Promise(() => {})
    const claims: ClusterClaim[] = Array.from({ length: STREAMS }, (_, i) => (
      { key: streamKey(`user-${Math.floor(i / tabs)}`, String(i).padEnd(32, 'x')), gone, end () {} }
    ))
    // Redis knows the scripts from then on.
    await cluster.claim(claims[0]!)
    await restart(admin)
    const before = await memory(admin)
    for (let i = 1; i < STREAMS; i += 500) await Promise.all(claims.slice(i, i + 500).map(claim => cluster.claim(claim)))
    const perStream = (await memory(admin) - before) / STREAMS
    t.ok(perStream <= bytes, `${Math.round(perStream)} bytes`)
    const claimed = await restart(admin)
    // Renewals go on beside them, twice a lease.
    t.ok(claimed.calls >= STREAMS - 1 && claimed.calls < STREAMS + 200, `${claimed.calls} commands`)

    await pause(LEASE)
    const renewed = await restart(admin)
    // Twice 16 buckets, of which each is one command for each 1,000 claims begun.
    t.ok(renewed.calls >= 60 && renewed.calls <= 70, `${renewed.calls} commands in one lease`)

    for (const claim of claims) {
      cluster.release(claim)
      // Each in a turn of its own, as the streams of different requests are.
      await turn()
    }
    await cluster.leave()
    const released = await restart(admin)
    t.ok(released.calls < STREAMS + 200, `${released.calls} commands`)
    t.equal(await admin.dbsize(), 0)

    const times = [claimed.micros / STREAMS, released.micros / STREAMS, renewed.micros / 2 / STREAMS]
    t.comment(`of Redis's time: ${times.map(time => time.toFixed(1)).join(', ')} µs a claim, a release, a renewal`)
    t.ok(times.every(time => time < TIME_BOUND * micros))
  })
}

async function memory (admin: Redis): Promise<number> {
  return Number(/used_memory:(\d+)/.exec(await admin.info('memory'))![1])
}

/** The scripts since the last restart, and the time that they took. */
async function restart (admin: Redis): Promise<{ calls: number, micros: number }> {
  const [, calls = 0, micros = 0] = /cmdstat_evalsha:calls=(\d+),usec=(\d+)/.exec(await admin.info('commandstats'))?.map(Number) ?? []
  await admin.config('RESETSTAT')
  return { calls, micros }
}
