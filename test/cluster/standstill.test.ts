// A process that stood still, as for a long garbage collection or a synchronous task: data that came meanwhile counts as having come in time.
import { once } from 'node:events'
import net from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { defaults } from '../../lib/options.ts'
import { redisCluster } from '../../lib/redis/index.ts'
import { BEAT } from '../../lib/redis/scripts.ts'
import { Registry } from '../../lib/registry/registry.ts'
import { streamKey } from '../../lib/registry/stream-key.ts'
import { clusterContext } from '../kit/cluster-context.ts'
import { memoryLog } from '../kit/memory-log.ts'
import { PlainHolder } from '../kit/plain-holder.ts'
import { redisOptions, redisServer } from '../kit/redis.ts'

/** Far longer than a test takes on a busy machine. */
const REPLACE_TIMEOUT = 60_000
/** Longer than a member waits for Redis, which is at most 2.5 s. */
const STANDSTILL = 2_800

// Blocks in an immediate, because libuv runs the timers next, and only then reads from the sockets.
function standStill (milliseconds: number): Promise<void> {
  return new Promise(resolve => setImmediate(() => {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds)
    resolve()
  }))
}

/** Registries of a cluster. Each registry has a separate client and log. */
async function build (t: Test) {
  const server = await redisServer(t)
  const start = async () => {
    const redis = server.client()
    const { log, lines } = memoryLog()
    const registry = new Registry({ ...defaults, replaceTimeout: REPLACE_TIMEOUT }, log)
    const cluster = registry.cluster = await redisCluster({ redis }).join(clusterContext({ log, replaceTimeout: REPLACE_TIMEOUT, registry }))
    t.teardown(async () => {
      await cluster.leave()
    })
    return { redis, registry, lines }
  }
  return { one: await start(), two: await start() }
}

/** Resolves after one round trip of each process. By then the process has read every answer that arrived during the standstill. */
async function answered (...processes: Array<{ redis: { ping: () => Promise<unknown> }, registry: Registry }>): Promise<void> {
  for (const { redis, registry } of processes) {
    await redis.ping()
    await registry.count('nobody')
  }
}

/** Replaces in `newcomer` a stream that `holder` holds. Returns whether the newcomer has started, and lets the holder go. */
async function replacement (holder: Registry, newcomer: Registry) {
  const key = streamKey('ann', 'a')
  const old = new PlainHolder()
  await holder.replaceAndRegister(key, old)
  let started = false
  const registered = newcomer.replaceAndRegister(key, new PlainHolder()).then(() => { started = true })
  return { started: () => started, old, registered }
}

t.test('an answer of Redis that came while the process stood still is read before Redis is taken to be away', redisOptions, async t => {
  // The newcomer started beside the predecessor: the timer was due, and the answer was not read yet.
  const { one, two } = await build(t)
  const { started, old, registered } = await replacement(one.registry, two.registry)
  await standStill(STANDSTILL)
  await answered(one, two)
  t.strictSame(old.reasons, ['replaced'])
  t.equal(started(), false)
  old.leave()
  await registered
  t.strictSame([...one.lines, ...two.lines], [])
})

t.test('a beat that came while the process stood still is heard before the subscription is taken to be deaf', redisOptions, async t => {
  // All waits were given up, and a newcomer started beside the predecessor.
  const { one, two } = await build(t)
  // Sends to every bucket, so that the next beat follows at once.
  for (let i = 0; i < 100; i++) await two.registry.replaceAndRegister(streamKey(`user ${i}`, 'a'), new PlainHolder())
  const { started, old, registered } = await replacement(one.registry, two.registry)
  while (old.reasons.length === 0) await pause(1)
  const { sendCommand } = two.redis
  const stood = new Promise<void>(resolve => {
    two.redis.sendCommand = (...args) => {
      const reply = Reflect.apply(sendCommand, two.redis, args)
      if (args[0].args[0] === BEAT.sha) {
        two.redis.sendCommand = sendCommand
        resolve(standStill(STANDSTILL))
      }
      return reply
    }
  })
  await stood
  await answered(one, two)
  t.equal(started(), false)
  old.leave()
  await registered
})

t.test('a predecessor that ended while the process stood still is not reported as late', async t => {
  const { log, lines } = memoryLog()
  const registry = new Registry({ ...defaults, replaceTimeout: 2_000 }, log)
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const socket = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1')
  const [peer] = await once(server, 'connection')
  t.teardown(() => { socket.destroy(); server.close() })

  let destroyed = false
  const old = { close () {}, gone: once(socket, 'data'), destroy () { destroyed = true } }
  const key = streamKey('ann', 'a')
  await registry.replaceAndRegister(key, old)
  const registered = registry.replaceAndRegister(key, new PlainHolder())
  setImmediate(() => peer.write('gone'))
  await standStill(2_500)
  t.equal(await registered, true)
  t.equal(destroyed, false)
  t.strictSame(lines, [])
})
