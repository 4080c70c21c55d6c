// The costs of a stream in Redis, as the section "Sizing" of docs/redis.md states the costs: bytes, commands, and processor time.
import { readFile } from 'node:fs/promises'
import { setImmediate as turn, setTimeout as pause } from 'node:timers/promises'
import FakeTimers from '@sinonjs/fake-timers'
import type { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { redisCluster } from '../../lib/redis/index.ts'
import { MIN_LEASE } from '../../lib/redis/protocol.ts'
import { streamKey } from '../../lib/registry/stream-key.ts'
import type { Cluster, ClusterClaim } from '../../types/cluster.ts'
import { clusterContext } from '../kit/cluster-context.ts'
import { redisOptions, redisServer } from '../kit/redis.ts'

const STREAMS = 20_000
/**
 * For how many leases the test counts renewals. Most buckets become due at once, so a count may have a round of all buckets more than the time says.
 * Over several leases that round is within the bound, and a third renewal per lease is not.
 */
const LEASES = 3
const BATCH = 500
/** A process renews its buckets in turn, and sends one command for each 250 claims in a bucket. Some buckets have more claims than others. */
const BUCKETS = 16
const LEAST_RENEWAL = Math.floor(STREAMS / BUCKETS / 250)
/** A command more for the claims above the average, and a command for the renewal of the process's own records, which is less frequent. */
const RENEWAL = LEAST_RENEWAL + 2
const REPLACED = 3_000
// Redis's account of the time includes time that the machine gave to another program, so the quickest batch counts.
const TIME_BOUND = 2.5
const LEAST_BOUND = 40
/**
 * The bounds that the document gives. Memory in bytes: a stream of a user with a single tab, with five tabs, and the extra after a replacement
 * across processes. Time of the start and the end of a stream in microseconds.
 */
const DOCUMENTED = { alone: 300, ofFive: 150, replacing: 100, micros: 40 }

// Stops only a test that hangs: a stream takes a few milliseconds.
t.setTimeout(300_000 + 2 * STREAMS * 30)

t.test('docs/redis.md gives the numbers that this test measures, in any wording', async t => {
  const text = await readFile(new URL('../../docs/redis.md', import.meta.url), 'utf8')
  const section = text.split(/^#+ Sizing$/m)[1]!.split(/^#+ /m)[0]
  const numbers = section!.match(/\d+/g)!.map(Number)
  for (const [what, number] of Object.entries(DOCUMENTED)) t.ok(numbers.includes(number), `${what}: ${number}`)
})

for (const [tabs, bytes] of [[1, DOCUMENTED.alone], [5, DOCUMENTED.ofFive]] as const) {
  t.test(`with ${tabs} to a user a stream takes at most ${bytes} bytes, one command at its start, one command at its end, and two renewals per lease`, redisOptions, async t => {
    const server = await redisServer(t)
    waitForRedis(t)
    const admin = server.client()
    const cluster = await redisCluster({ redis: server.client(), lease: MIN_LEASE }).join(clusterContext())
    const never = new Promise(() => {})
    const claims: ClusterClaim[] = Array.from({ length: STREAMS }, (_, i) => (
      { key: streamKey(`user-${Math.floor(i / tabs)}`, String(i).padEnd(32, 'x')), released: never, end () {} }
    ))
    // From now on Redis knows the scripts.
    await cluster.claim(claims[0]!)
    await restart(admin)
    const before = await memory(admin)
    // A timer of this process sends renewals at the same time. This timer has the same period, so a slow machine delays both timers alike.
    let beats = 0
    const beating = setInterval(() => beats++, MIN_LEASE / 2 / BUCKETS)
    t.teardown(() => clearInterval(beating))
    const claimed: Cost[] = []
    for (let i = 1; i < STREAMS; i += BATCH) {
      await Promise.all(claims.slice(i, i + BATCH).map(claim => cluster.claim(claim)))
      claimed.push(await restart(admin))
    }
    const perStream = (await memory(admin) - before) / STREAMS
    t.ok(perStream <= bytes, `${Math.round(perStream)} bytes`)
    const calls = claimed.reduce((sum, cost) => sum + cost.calls, 0)
    t.ok(calls >= STREAMS - 1 && calls <= STREAMS + RENEWAL * (beats + 1), `${calls} commands, ${beats} beats`)

    beats = 0
    await pause(LEASES * MIN_LEASE)
    const renewed = await restart(admin)
    t.ok(renewed.calls > LEAST_RENEWAL * beats * 2 / 3 && renewed.calls <= RENEWAL * (beats + 2), `${renewed.calls} commands, ${beats} beats`)

    beats = 0
    const released: Cost[] = []
    for (let i = 0; i < STREAMS; i += BATCH) {
      for (const claim of claims.slice(i, i + BATCH)) {
        cluster.release(claim)
        // Each start runs in a separate turn of the event loop, like streams of different requests.
        await turn()
      }
      // This command runs after the last release, on the same connection.
      await cluster.count('')
      released.push(await restart(admin))
    }
    await cluster.leave()
    // Each batch ends with a COUNT command.
    const releases = released.reduce((sum, cost) => sum + cost.calls, 0)
    t.ok(releases <= STREAMS + released.length + RENEWAL * (beats + 2), `${releases} commands, ${beats} beats`)
    t.equal(await admin.dbsize(), 0)

    const times = [quickest(claimed), quickest(released), renewed.micros / (2 * LEASES) / STREAMS]
    const least = await leastOfAScript(admin)
    t.comment(`of Redis's time: ${times.map(time => time.toFixed(1)).join(', ')} µs a claim, a release, a renewal; ${least.toFixed(1)} µs a script of one command`)
    t.ok(times[0]! + times[1]! < Math.max(TIME_BOUND * DOCUMENTED.micros, LEAST_BOUND * least))
  })
}

t.test(`a stream that replaced a stream of another process takes at most ${DOCUMENTED.replacing} bytes more`, redisOptions, async t => {
  const server = await redisServer(t)
  waitForRedis(t)
  const admin = server.client()
  const join = () => redisCluster({ redis: server.client() }).join(clusterContext())
  const [one, two] = [await join(), await join()]
  const claims = (cluster: Cluster): ClusterClaim[] => Array.from({ length: REPLACED }, (_, i) => ({
    key: streamKey(`user-${i}`, String(i).padEnd(32, 'x'), 'a name'),
    released: Promise.resolve(),
    end () { cluster.release(this) }
  }))
  for (const claim of claims(one)) await one.claim(claim)
  const before = await memory(admin)
  for (const claim of claims(two)) await two.claim(claim)
  const perStream = (await memory(admin) - before) / REPLACED
  t.ok(perStream > 0 && perStream <= DOCUMENTED.replacing, `${Math.round(perStream)} bytes`)
  await one.leave()
  await two.leave()
  t.equal(await admin.dbsize(), 0)
})

/** Stops the timer that declares Redis away after 2.5 s without an answer. A process sends no claims while Redis is away, and a slow machine may need longer. */
function waitForRedis (t: Test): void {
  const clock = FakeTimers.install({ toFake: ['setTimeout', 'clearTimeout'] })
  t.teardown(() => clock.uninstall())
}

interface Cost { calls: number, micros: number }

/** The time for a single stream. Unit: microseconds. */
function quickest (costs: Cost[]): number {
  return Math.min(...costs.map(({ micros }) => micros / BATCH))
}

/** The shortest time that the same Redis needs for a script with a single command. Measures how fast this machine is. */
async function leastOfAScript (admin: Redis): Promise<number> {
  const costs: Cost[] = []
  const sha = await admin.script('LOAD', "return redis.call('HSET', KEYS[1], ARGV[1], ARGV[1])") as string
  for (let i = 0; i < STREAMS; i += BATCH) {
    await Promise.all(Array.from({ length: BATCH }, (_, j) => admin.evalsha(sha, 1, 'least', i + j)))
    costs.push(await restart(admin))
  }
  return quickest(costs)
}

async function memory (admin: Redis): Promise<number> {
  return Number(/used_memory:(\d+)/.exec(await admin.info('memory'))![1])
}

/** The scripts since the last restart, and the time that the scripts took. */
async function restart (admin: Redis): Promise<Cost> {
  const [, calls = 0, micros = 0] = /cmdstat_evalsha:calls=(\d+),usec=(\d+)/.exec(await admin.info('commandstats'))?.map(Number) ?? []
  await admin.config('RESETSTAT')
  return { calls, micros }
}
