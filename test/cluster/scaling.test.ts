// What a stream costs Redis, as the README's section "Scaling" says: its bytes, its commands, and its share of Redis's one thread.
import { readFile } from 'node:fs/promises'
import { setImmediate as turn, setTimeout as pause } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import t from 'tap'
import { redisCluster } from '../../lib/redis/index.ts'
import { streamKey } from '../../lib/registry/stream-key.ts'
import type { ClusterClaim } from '../../types/cluster.ts'
import { memoryLog } from '../kit/memory-log.ts'
import { redisOptions, redisServer } from '../kit/redis.ts'

const STREAMS = 20_000
const LEASE = 4_000
const BATCH = 500
const REPLACED = 3_000
// Of Redis's own account of its time. What another process took of it is in that account, so the quickest batch counts.
const TIME_BOUND = 5

const readme = await readFile(new URL('../../README.md', import.meta.url), 'utf8')
const [, perOne, perFive, forReplacing, micros] = /\| memory \| (\d+) bytes .*, (\d+) .*five; (\d+) more [^]*?about (\d+) µs/.exec(readme)!.map(Number) as [number, number, number, number, number]

for (const [tabs, bytes] of [[1, perOne], [5, perFive]] as const) {
  t.test(`with ${tabs} to a user a stream takes ${bytes} bytes at the most, one command at its start, one at its end, and two renewals a lease`, redisOptions, async t => {
    const server = await redisServer(t)
    const admin = server.client()
    const cluster = await redisCluster({ redis: server.client(), lease: LEASE }).join({ log: memoryLog().log, replaceTimeout: 5_000 })
    const never = new Promise(() => {})
    const claims: ClusterClaim[] = Array.from({ length: STREAMS }, (_, i) => (
      { key: streamKey(`user-${Math.floor(i / tabs)}`, String(i).padEnd(32, 'x')), released: never, end () {} }
    ))
    // Redis knows the scripts from then on.
    await cluster.claim(claims[0]!)
    await restart(admin)
    const before = await memory(admin)
    const claimed: Cost[] = []
    for (let i = 1; i < STREAMS; i += BATCH) {
      await Promise.all(claims.slice(i, i + BATCH).map(claim => cluster.claim(claim)))
      claimed.push(await restart(admin))
    }
    const perStream = (await memory(admin) - before) / STREAMS
    t.ok(perStream <= bytes, `${Math.round(perStream)} bytes`)
    // Renewals go on beside them, twice a lease.
    const calls = claimed.reduce((sum, cost) => sum + cost.calls, 0)
    t.ok(calls >= STREAMS - 1 && calls < STREAMS + 200, `${calls} commands`)

    await pause(LEASE)
    const renewed = await restart(admin)
    // Twice 16 buckets, of which each is one command for each 1,000 claims begun; fewer where a busy machine is late.
    t.ok(renewed.calls > 40 && renewed.calls <= 70, `${renewed.calls} commands in one lease`)

    const released: Cost[] = []
    for (let i = 0; i < STREAMS; i += BATCH) {
      for (const claim of claims.slice(i, i + BATCH)) {
        cluster.release(claim)
        // Each in a turn of its own, as the streams of different requests are.
        await turn()
      }
      // Behind the last release, on the same connection.
      await cluster.count('')
      released.push(await restart(admin))
    }
    await cluster.leave()
    t.ok(released.every(({ calls }) => calls < BATCH + 50), `${Math.max(...released.map(({ calls }) => calls))} commands`)
    t.equal(await admin.dbsize(), 0)

    const times = [quickest(claimed), quickest(released), renewed.micros / 2 / STREAMS]
    t.comment(`of Redis's time: ${times.map(time => time.toFixed(1)).join(', ')} µs a claim, a release, a renewal`)
    t.ok(times.slice(0, 2).every(time => time < TIME_BOUND * micros))
  })
}

t.test(`one that replaced another process's takes ${forReplacing} bytes more at the most`, redisOptions, async t => {
  const server = await redisServer(t)
  const admin = server.client()
  const join = () => redisCluster({ redis: server.client() }).join({ log: memoryLog().log, replaceTimeout: 5_000 })
  const [one, two] = [await join(), await join()]
  const claims = (): ClusterClaim[] => Array.from({ length: REPLACED }, (_, i) => (
    { key: streamKey(`user-${i}`, String(i).padEnd(32, 'x'), 'a name'), released: Promise.resolve(), end () {} }
  ))
  for (const claim of claims()) await one.claim(claim)
  const before = await memory(admin)
  for (const claim of claims()) await two.claim(claim)
  const perStream = (await memory(admin) - before) / REPLACED
  t.ok(perStream > 0 && perStream <= forReplacing, `${Math.round(perStream)} bytes`)
  await one.leave()
  await two.leave()
  t.equal(await admin.dbsize(), 0)
})

interface Cost { calls: number, micros: number }

/** Unit: microseconds of one stream. */
function quickest (costs: Cost[]): number {
  return Math.min(...costs.map(({ micros }) => micros / BATCH))
}

async function memory (admin: Redis): Promise<number> {
  return Number(/used_memory:(\d+)/.exec(await admin.info('memory'))![1])
}

/** The scripts since the last restart, and the time that they took. */
async function restart (admin: Redis): Promise<Cost> {
  const [, calls = 0, micros = 0] = /cmdstat_evalsha:calls=(\d+),usec=(\d+)/.exec(await admin.info('commandstats'))?.map(Number) ?? []
  await admin.config('RESETSTAT')
  return { calls, micros }
}
