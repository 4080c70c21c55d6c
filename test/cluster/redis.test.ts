// The Redis adapter keeps the contract: with clients of either make, with a password, key prefixes and a Redis Cluster.
import { setTimeout as pause } from 'node:timers/promises'
import fastifyRedis from '@fastify/redis'
import FakeTimers from '@sinonjs/fake-timers'
import Fastify from 'fastify'
import { Cluster, Redis } from 'ioredis'
import { Redis as Valkey } from 'iovalkey'
import t, { type Test } from 'tap'
import octaStarStreams from '../../lib/index.ts'
import { defaults } from '../../lib/options.ts'
import { redisCluster, type RedisClient } from '../../lib/redis/index.ts'
import { Registry } from '../../lib/registry/registry.ts'
import { streamKey } from '../../lib/registry/stream-key.ts'
import { buildApp, streamRoute, withSignals } from '../kit/app.ts'
import { connect } from '../kit/client.ts'
import { memoryLog } from '../kit/memory-log.ts'
import { PlainHolder } from '../kit/plain-holder.ts'
import { redisNodes, redisOptions, redisOverTls, redisServer } from '../kit/redis.ts'
import { clusterConformance } from './conformance.ts'

type Client = RedisClient & { disconnect (): void }

/** Starts what it needs, and resolves to a maker of clients. */
type Variant = (t: Test) => Promise<() => Client>

const variants: Record<string, Variant> = {
  async ioredis (t) {
    const { access } = await redisServer(t)
    return () => new Redis(access)
  },
  async 'iovalkey, with a key prefix and a password' (t) {
    const { port } = await redisServer(t, ['--requirepass', 'secret'], { password: 'secret' })
    return () => new Valkey({ port, password: 'secret', keyPrefix: 'app:' })
  },
  async 'ioredis, with lazyConnect and a key prefix with a hash tag' (t) {
    const { access } = await redisServer(t)
    return () => new Redis({ ...access, lazyConnect: true, keyPrefix: '{app}:' })
  },
  async 'ioredis, over TLS with certificates on both sides' (t) {
    const { access } = await redisOverTls(t)
    return () => new Redis(access)
  },
  async 'a Redis Cluster of one node' (t) {
    const [node] = await redisNodes(t, 1)
    return () => new Cluster([{ host: '127.0.0.1', port: node!.port }])
  },
  async 'a Redis Cluster of three nodes, each client introduced by another' (t) {
    const nodes = await redisNodes(t, 3)
    let turn = 0
    return () => new Cluster([{ host: '127.0.0.1', port: nodes[turn++ % 3]!.port }])
  }
}

for (const [name, start] of Object.entries(variants)) {
  t.test(name, redisOptions, async t => {
    const client = await start(t)
    let round = 0
    clusterConformance(t, {
      async build (t: Test, members) {
        const prefix = `round-${++round}:`
        return await Promise.all(Array.from({ length: members }, async () => {
          const redis = client()
          const { log } = memoryLog()
          const cluster = await redisCluster({ redis, prefix }).join({ log, replaceTimeout: 5_000 })
          const registry = new Registry(cluster, { ...defaults, onLimit: 'replace-oldest' }, log)
          t.teardown(async () => {
            await cluster.leave()
            redis.disconnect()
          })
          return registry
        }))
      }
    })
  })
}

t.test('over HTTP', redisOptions, async t => {
  const server = await redisServer(t)
  async function startProcess () {
    // A long lease: no renewal is sent between the commands that this test counts.
    const app = await buildApp(t, { cluster: redisCluster({ redis: server.client(), lease: 3_600_000 }) })
    return { app, streams: streamRoute(app), registry: app.fastify.streamRegistry, ...await app.listen() }
  }
  const [one, two] = [await startProcess(), await startProcess()]
  const commands = async () => Number(/total_commands_processed:(\d+)/.exec(await counter.info('stats'))![1])
  const counter = server.client()

  t.test('a fresh key is one command and five steps of its script; a replacement one command, one message, one acknowledgement', async t => {
    const monitored: string[][] = []
    const monitor = await server.client().monitor()
    monitor.on('monitor', (_time: string, args: string[], _source: string) => monitored.push(args))
    // What a script does inside Redis is monitored as well; it costs no round trip.
    const sent = () => monitored.map(([command]) => command!.toLowerCase()).filter(command => ['evalsha', 'eval', 'publish'].includes(command))
    // Redis runs commands in order: when MONITOR shows the mark, the list contains every earlier command.
    let marks = 0
    const settled = async () => {
      const mark = `mark ${++marks}`
      await counter.echo(mark)
      while (!monitored.some(([, text]) => text === mark)) await pause(1)
    }
    const first = await connect(one.url(withSignals('/stream/ann', { tabId: 'a' })))
    // The scripts are known to Redis from now on.
    await one.registry.evict('ann')
    await first.ended
    await connect(one.url(withSignals('/stream/ann', { tabId: 'a' })))
    await settled()
    monitored.length = 0
    const loner = await connect(one.url(withSignals('/stream/bob', { tabId: 'a' })))
    await settled()
    t.strictSame(sent(), ['evalsha'])
    monitored.length = 0
    await connect(two.url(withSignals('/stream/ann', { tabId: 'a' })))
    await settled()
    t.strictSame(sent(), ['evalsha', 'publish', 'publish'], 'the claim, its message to the holder, the acknowledgement')
    t.equal(one.streams.at(-2)!.signal.aborted, true)
    loner.leave()
    monitor.disconnect()
  })

  t.test('the entries of a process that closes are gone at once', async t => {
    const three = await startProcess()
    for (let i = 0; i < 100; i++) await connect(three.url(withSignals(`/stream/carl${i % 50}`, { tabId: String(i) })))
    t.equal(await one.registry.count('carl0'), 2)
    await three.fastify.close()
    t.equal(await one.registry.count('carl0'), 0)
    t.strictSame((await counter.keys('*')).length, 1, 'but for the one of the test before')
  })

  t.test('a process with 10,000 quiet streams sends fewer than two commands a second', async t => {
    const { log } = memoryLog()
    const cluster = await redisCluster({ redis: server.client(), prefix: 'quiet:' }).join({ log, replaceTimeout: 5_000 })
    const released = new Promise<void>(() => {})
    // Not all at once: a busy machine's Redis would count as away, and all be stated again when it is back.
    const clock = FakeTimers.install({ toFake: ['setTimeout', 'clearTimeout'] })
    t.teardown(() => clock.uninstall())
    for (let i = 0; i < 10_000; i += 500) {
      await Promise.all(Array.from({ length: 500 }, (_, j) => cluster.claim({ key: streamKey(i + j, 'a'), released, end () {} })))
    }
    const before = await commands()
    const beats = async () => Number(/cmdstat_evalsha:calls=(\d+)/.exec(await counter.info('commandstats'))![1])
    const beatsBefore = await beats()
    const from = performance.now()
    await pause(10_000)
    const scripts = await beats() - beatsBefore
    const seconds = (performance.now() - from) / 1000
    t.ok(scripts < 2 * seconds, `${scripts} scripts in ${seconds.toFixed(1)} s`)
    t.ok(before > 10_000)
    await cluster.leave()
  })
})

t.test('with fastify.redis of @fastify/redis, which closes its client after us', redisOptions, async t => {
  const server = await redisServer(t)
  const fastify = Fastify()
  await fastify.register(fastifyRedis, { port: server.port, host: '127.0.0.1' })
  await fastify.register(octaStarStreams, { tabId: request => (request.query as { tab: string }).tab, cluster: redisCluster({ redis: fastify.redis }) })
  fastify.get('/', { sse: 'only' }, async (_request, reply) => { (await reply.startStream('ann')).keepAlive() })
  await fastify.inject({ url: '/?tab=a', payloadAsStream: true })
  const observer = server.client()
  t.equal((await observer.keys('*')).length, 1)
  await fastify.close()
  t.strictSame(await observer.keys('*'), [])
  t.equal((await observer.client('LIST') as string).split('\n').filter(line => line.includes('sub=1')).length, 0, 'no subscription is left')
})

t.test('a claim that is released twice, or after its process has left, is forgotten once', redisOptions, async t => {
  const server = await redisServer(t)
  const cluster = await redisCluster({ redis: server.client() }).join({ log: memoryLog().log, replaceTimeout: 5_000 })
  const claim = { key: streamKey('ann', 'a'), released: Promise.resolve(), end () {} }
  await cluster.claim(claim)
  cluster.release(claim)
  cluster.release(claim)
  await cluster.leave()
  cluster.release(claim)
  t.strictSame(await server.client().keys('*'), [])
})

t.test('an option of the adapter that cannot be is refused at once', async t => {
  const redis = { evalsha () {}, duplicate () {} } as never
  const code = 'FST_ERR_OCTA_STAR_OPTION'
  for (const options of [{}, { redis: {} }, { redis: null }, { redis, prefix: '{a}' }, { redis, prefix: 'a b' }, { redis, prefix: 1 }, { redis, lease: 999 }, { redis, lease: 1.5e3 + 0.5 }, { redis, lease: 3_600_001 }]) {
    t.throws(() => redisCluster(options as never), { code })
  }
  redisCluster({ redis, prefix: 'x:', lease: 1000 })
})

// A claim that was answered NOSCRIPT was sent again behind a newer one of its process, and passed for the newest.
t.test('claims that race while Redis knows no script keep their order', redisOptions, async t => {
  const server = await redisServer(t)
  const { log, lines } = memoryLog()
  // Longer than the time limit of this file: a test that waits for replaceTimeout fails.
  const join = () => redisCluster({ redis: server.client() }).join({ log, replaceTimeout: 3_600_000 })
  const members = [await join(), await join(), await join()]
  const registries = members.map(member => new Registry(member, { ...defaults, replaceTimeout: 3_600_000, onLimit: 'replace-oldest' }, log))
  const admin = server.client()
  for (let round = 0; round < 30; round++) {
    admin.script('FLUSH')
    const left = new Set<number>()
    await Promise.all(Array.from({ length: 24 }, async (_, i) => {
      const holder = new PlainHolder()
      holder.close = () => {
        left.delete(i)
        holder.leave()
      }
      left.add(i)
      await registries[i % 3]!.replaceAndRegister(streamKey(round, 'a'), holder)
    }))
    while (left.size > 1) await pause(1)
    t.equal(left.size, 1)
  }
  t.strictSame(lines.filter(({ message }) => !message.includes('share one tab id')), [], 'nobody waited for itself')
  for (const member of members) await member.leave()
})
