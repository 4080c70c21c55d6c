// The costs of large scopes and large processes for Redis and the event loop, measured in a real Redis.
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as pause } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import t from 'tap'
import { redisCluster } from '../../lib/redis/index.ts'
import { claimCommand, countCommand, evictCommand, fieldPrefix, restateCommand, type Command, type Place, type Sender } from '../../lib/redis/protocol.ts'
import { RESTATE } from '../../lib/redis/scripts.ts'
import { streamKey } from '../../lib/registry/stream-key.ts'
import { clusterContext } from '../kit/cluster-context.ts'
import { memoryLog } from '../kit/memory-log.ts'
import { redisOptions, redisServer } from '../kit/redis.ts'
import type { ClusterClaim } from '../../types/cluster.ts'

const PAGE = 250
const ROUNDS = 31

// Stops only a test that hangs.
t.setTimeout(600_000)

const sender = (id: string): Sender => ({ id: id.padEnd(16, '-'), prefix: 'octa-star:', lease: 600_000 })
const now = { at: 0, tolerance: 0 }

async function evaluate<Reply> (redis: Redis, { script, keys, args, parse }: Command<Reply>): Promise<Reply> {
  try {
    return parse(await redis.evalsha(script.sha, keys.length, ...keys, ...args))
  } catch (error) {
    if (!(error as Error).message.startsWith('NOSCRIPT')) throw error
    return parse(await redis.eval(script.lua, keys.length, ...keys, ...args))
  }
}

/** The processor time of the thread in which Redis runs commands. Unit: microseconds. */
async function processorTime (redis: Redis): Promise<number> {
  const seconds = (await redis.info('cpu')).matchAll(/^used_cpu_\w+_main_thread:([\d.]+)/gm)
  return Array.from(seconds, ([, number]) => Number(number) * 1e6).reduce((sum, micros) => sum + micros)
}

/** The processor time that `command` takes in Redis. The clock would also count other programs, for which a busy machine stops Redis. Unit: microseconds. */
async function microsOf (redis: Redis, command: Command<unknown>): Promise<number> {
  const before = await processorTime(redis)
  await evaluate(redis, command)
  return await processorTime(redis) - before
}

const median = (numbers: number[]) => numbers.sort((a, b) => a - b)[Math.floor(numbers.length / 2)]!

t.test('a quiet stream costs Redis the same in a scope of 1 and of 100,000', redisOptions, async t => {
  const redis = (await redisServer(t)).client()
  const large: Place[] = Array.from({ length: 100_000 }, (_, i) => ({ digest: 'a'.repeat(40), field: fieldPrefix(`tab ${i}`), number: i + 1 }))
  const small: Place[] = Array.from({ length: PAGE }, (_, i) => ({ digest: `a${String(i).padStart(39, '0')}`, field: fieldPrefix(`tab ${i}`), number: 200_000 + i }))
  for (let i = 0; i < large.length; i += 1_000) await Promise.all(large.slice(i, i + 1_000).map(place => evaluate(redis, claimCommand(sender('one'), place, now))))
  await Promise.all(small.map(place => evaluate(redis, claimCommand(sender('one'), place, now))))
  const times: { large: number[], small: number[] } = { large: [], small: [] }
  const restate = (places: Place[]) => microsOf(redis, restateCommand(sender('one'), 10, places.map(place => ({ ...place, token: 1 }))))
  for (let round = 0; round < ROUNDS; round++) {
    times.small.push(await restate(small))
    times.large.push(await restate(large.slice(round * PAGE, (round + 1) * PAGE)))
  }
  const [inSmall, inLarge] = [median(times.small), median(times.large)]
  t.comment(`${(inSmall / PAGE).toFixed(1)} µs a claim in scopes of 1, ${(inLarge / PAGE).toFixed(1)} µs in a scope of 100,000`)
  t.ok(inLarge < 1.5 * inSmall, `${inLarge.toFixed(0)} and ${inSmall.toFixed(0)} µs a page`)
})

// Takes a few milliseconds, like the longest script that the design allows. A slow machine slows both down.
const LOOP = 'local sum = 0 for i = 1, 1000000 do sum = sum + i end return sum'

t.test('to evict and count a scope with 30,000 claims never blocks Redis for longer than a loop of a million steps in Lua', redisOptions, async t => {
  const redis = (await redisServer(t)).client()
  const digest = 'a'.repeat(40)
  const places: Place[] = Array.from({ length: 30_000 }, (_, i) => ({ digest, field: fieldPrefix(`tab ${i}`), number: i + 1 }))
  for (let i = 0; i < places.length; i += 1_000) await Promise.all(places.slice(i, i + 1_000).map(place => evaluate(redis, claimCommand(sender('owner'), place, now))))
  // The owner sends no beats, and would be dead before a slow machine has read all pages.
  for (const record of await redis.keys('*:member:*')) await redis.persist(record)
  for (const [name, commandAt] of [
    ['count', (cursor: string) => countCommand(sender('other'), digest, cursor)],
    ['evict', (cursor: string) => evictCommand(sender('other'), digest, '', cursor, now) as Command<{ cursor: string }>]
  ] as const) {
    const pages: number[] = []
    const loops: number[] = []
    let cursor = '0'
    do {
      const command = commandAt(cursor)
      let next = '0'
      const page = { ...command, parse (output: unknown) { next = command.parse(output).cursor } }
      const times: number[] = []
      // Redis may get memory from the system, or grow a table, during any script.
      for (let time = 0; time < 7; time++) times.push(await microsOf(redis, page))
      pages.push(Math.min(...times))
      const before = await processorTime(redis)
      await redis.eval(LOOP, 0)
      loops.push(await processorTime(redis) - before)
      cursor = next
    } while (cursor !== '0')
    const slowest = Math.max(...pages)
    const loop = median(loops)
    t.comment(`${name}: ${pages.length} pages, the slowest ${slowest.toFixed(0)} µs, the loop ${loop.toFixed(0)} µs`)
    t.ok(pages.length > 50)
    t.ok(slowest < loop, `${name}: ${slowest.toFixed(0)} µs`)
  }
})

t.test('if Redis restarts empty under 200,000 claims of one process, each claim is restated once, soon, and the event loop goes on', redisOptions, async t => {
  const CLAIMS = 200_000
  const server = await redisServer(t)
  const redis = server.client()
  const { log, lines } = memoryLog()
  // With the longest lease, only the restart makes the process restate claims during this test.
  const cluster = await redisCluster({ redis, lease: 3_600_000 }).join(clusterContext({ log, replaceTimeout: 60_000 }))
  const never = new Promise(() => {})
  const claims: ClusterClaim[] = Array.from({ length: CLAIMS }, (_, i) => ({ key: streamKey(`user ${i}`, 'a'), released: never, end () { t.fail('no claim may end') } }))
  const begun = performance.now()
  for (let i = 0; i < CLAIMS; i += 1_000) await Promise.all(claims.slice(i, i + 1_000).map(claim => cluster.claim(claim)))
  const claiming = performance.now() - begun
  const histogram = monitorEventLoopDelay({ resolution: 5 })
  const measure = async (work: () => Promise<unknown>) => {
    histogram.reset()
    histogram.enable()
    await work()
    histogram.disable()
    return histogram.percentile(99) / 1e6
  }
  const idle = await measure(() => pause(3_000))

  // The claims that the process restates, read from the arguments of its commands.
  let restated = 0
  const { sendCommand } = redis
  redis.sendCommand = (...args) => {
    const [sha, keys] = args[0].args
    if (sha === RESTATE.sha) restated += Number(keys) - 1
    return Reflect.apply(sendCommand, redis, args)
  }
  await server.kill()
  const admin = server.client()
  let took = 0
  const busy = await measure(async () => {
    await server.start()
    const started = performance.now()
    const scopes = async () => await admin.dbsize().catch(() => 0)
    while (await scopes() < CLAIMS) await pause(50)
    took = performance.now() - started
    await pause(500)
  })
  t.comment(`claimed in ${Math.round(claiming)} ms, restated in ${Math.round(took)} ms; p99 of the event loop's delay ${busy.toFixed(1)} ms, idle ${idle.toFixed(1)} ms; ${restated} restated`)
  t.equal(restated, CLAIMS, 'each claim once')
  // A busy machine takes longer for the claims, too.
  t.ok(took < Math.max(10_000, claiming), `${Math.round(took)} ms`)
  t.ok(busy < 50 + idle, `${busy.toFixed(1)} ms`)
  // A Redis that is back before the next command was never away.
  t.ok([0, 2].includes(lines.length), `away and back are said once: ${lines.map(({ message, details }) => message ?? details)}`)
  for (const claim of claims) cluster.release(claim)
  await cluster.leave()
})
