// The Redis adapter over HTTP: the cost of a stream, the keys that a process leaves behind, and the options that are refused. See clients.test.ts for the contract.
import { setTimeout as pause } from 'node:timers/promises'
import fastifyRedis from '@fastify/redis'
import FakeTimers from '@sinonjs/fake-timers'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import t from 'tap'
import octaStarStreams from '../../lib/index.ts'
import { defaults } from '../../lib/options.ts'
import { redisCluster } from '../../lib/redis/index.ts'
import { Registry } from '../../lib/registry/registry.ts'
import { streamKey } from '../../lib/registry/stream-key.ts'
import { clusterContext } from '../kit/cluster-context.ts'
import { buildApp, streamRoute, withSignals } from '../kit/app.ts'
import { connect } from '../kit/client.ts'
import { conformance } from '../kit/conformance.ts'
import { memoryLog } from '../kit/memory-log.ts'
import { monitorCommands } from '../kit/monitor.ts'
import { PlainHolder } from '../kit/plain-holder.ts'
import { redisProxy } from '../kit/redis-proxy.ts'
import { redisOptions, redisServer } from '../kit/redis.ts'

t.test('ioredis, with a network that breaks between a process and Redis', redisOptions, async t => {
  const { port } = await redisServer(t)
  let round = 0
  await conformance(t, {
    build () {
      const prefix = `round-${++round}:`
      const clients: Redis[] = []
      return {
        async adapter () {
          const proxy = await redisProxy(t, port)
          const redis = new Redis({ port: proxy.port })
          redis.on('error', () => {})
          clients.push(redis)
          return { ...redisCluster({ redis, prefix }), proxy }
        },
        tearDown () { for (const redis of clients) redis.disconnect() }
      }
    },
    disconnect ({ proxy }) {
      proxy.cut()
      return () => proxy.mend()
    }
  })
})

t.test('over HTTP', redisOptions, async t => {
  const server = await redisServer(t)
  async function startProcess () {
    // A long lease: no renewal is sent between the commands that this test counts.
    const app = await buildApp(t, { cluster: redisCluster({ redis: server.client(), lease: 3_600_000 }) })
    return { app, streams: streamRoute(app), registry: app.fastify.streamRegistry, ...await app.listen() }
  }
  const [one, two] = [await startProcess(), await startProcess()]
  const counter = server.client()

  t.test('a fresh key is one command, and a replacement is one command with one message, and one acknowledgement with its message', async t => {
    const monitored = await monitorCommands(t, server.port)
    // MONITOR also shows the commands that a script executes. These commands cost no round trip.
    const sent = () => monitored.map(([command]) => command!.toLowerCase()).filter(command => ['evalsha', 'eval', 'publish'].includes(command))
    // Redis runs commands in order: when MONITOR shows the mark, the list contains every earlier command.
    let marks = 0
    const settled = async () => {
      const mark = `mark ${++marks}`
      await counter.echo(mark)
      while (!monitored.some(([, text]) => text === mark)) await pause(1)
    }
    const first = await connect(one.url(withSignals('/stream/ann', { tabId: 'a' })))
    // From now on Redis knows the scripts.
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
    t.strictSame(sent(), ['evalsha', 'publish', 'evalsha', 'publish'], 'the claim with its message, the acknowledgement with its message')
    t.equal(one.streams.at(-2)!.signal.aborted, true)
    loner.leave()
  })

  t.test('the entries of a process that closes are removed at once', async t => {
    const three = await startProcess()
    for (let i = 0; i < 100; i++) await connect(three.url(withSignals(`/stream/carl${i % 50}`, { tabId: String(i) })))
    t.equal(await one.registry.count('carl0'), 2)
    const records = async () => (await counter.keys('*:member:*')).length
    const recordsOfAll = await records()
    await three.fastify.close()
    t.equal(await one.registry.count('carl0'), 0)
    t.ok(await records() < recordsOfAll, 'the records of the process are deleted')
    t.strictSame((await counter.keys('*')).filter(key => !/:member:|:members$|:evicted$/.test(key)).length, 1, 'the scope of the test before')
  })

  t.test('a process with 10,000 quiet streams sends fewer than two commands a second', async t => {
    const { log } = memoryLog()
    const cluster = await redisCluster({ redis: server.client(), prefix: 'quiet:' }).join(clusterContext({ log }))
    const released = new Promise<void>(() => {})
    // Opens the streams in batches. With all at once, a busy machine's Redis would count as away, and the process would restate all claims afterwards.
    const clock = FakeTimers.install({ toFake: ['setTimeout', 'clearTimeout'] })
    t.teardown(() => clock.uninstall())
    for (let i = 0; i < 10_000; i += 500) {
      await Promise.all(Array.from({ length: 500 }, (_, j) => cluster.claim({ key: streamKey(i + j, 'a'), released, end () {} })))
    }
    const monitored = await monitorCommands(t, server.port)
    const from = performance.now()
    await pause(10_000)
    const seconds = (performance.now() - from) / 1000
    const scripts = monitored.filter(([command, , , key]) => command!.toLowerCase().startsWith('eval') && key!.startsWith('quiet:'))
    t.ok(scripts.length < 2 * seconds, `${scripts.length} scripts in ${seconds.toFixed(1)} s`)
    t.ok(scripts.length > 0)
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
  t.equal((await observer.keys('*')).filter(key => !/:member:|:members$/.test(key)).length, 1)
  await fastify.close()
  t.strictSame(await observer.keys('*'), [])
  t.equal((await observer.client('LIST') as string).split('\n').filter(line => line.includes('sub=1')).length, 0, 'no subscription is left')
})

t.test('a claim that is released twice, or after its process has left, is forgotten once', redisOptions, async t => {
  const server = await redisServer(t)
  const cluster = await redisCluster({ redis: server.client() }).join(clusterContext())
  const claim = { key: streamKey('ann', 'a'), released: Promise.resolve(), end () {} }
  await cluster.claim(claim)
  cluster.release(claim)
  cluster.release(claim)
  await cluster.leave()
  cluster.release(claim)
  t.strictSame(await server.client().keys('*'), [])
})

t.test('an option of the adapter that is not valid, or that does not exist, is refused at once', async t => {
  const redis = { createBuiltinCommand () {}, duplicate () {} } as never
  const code = 'FST_ERR_OCTA_STAR_OPTION'
  for (const options of [undefined, {}, { redis: {} }, { redis: null }, { redis, prefix: '{a}' }, { redis, prefix: 'a b' }, { redis, prefix: 1 }, { redis, lease: 11_999 }, { redis, lease: 60_000.5 }, { redis, lease: 3_600_001 }, { redis, maxMessageBytes: 0 }, { redis, maxMessageBytes: 134_217_729 }]) {
    t.throws(() => redisCluster(options as never), { code })
  }
  t.throws(() => redisCluster({ redis: new Map() } as never), { code, message: /option 'cluster.redis' must be a client of ioredis, iovalkey or redis, got an instance of Map/ })
  t.throws(() => redisCluster({ redis, leese: 1000 } as never), {
    code: 'FST_ERR_OCTA_STAR_UNKNOWN_OPTION',
    message: "octa-star-streams: unknown option 'cluster.leese'. Known options: redis, prefix, lease, maxMessageBytes, log"
  })
  redisCluster({ redis, prefix: 'x:', lease: 12_000, log: undefined } as never)
})

// A claim that was answered NOSCRIPT was sent again after a newer claim of the same process, and Redis took the old claim for the newest.
t.test('claims that race while Redis knows no script keep their order', redisOptions, async t => {
  const server = await redisServer(t)
  const { log, lines } = memoryLog()
  // Longer than the time limit of this file: a test that waits for replaceTimeout fails.
  const registries = Array.from({ length: 3 }, () => new Registry({ ...defaults, replaceTimeout: 3_600_000, onLimit: 'replace-oldest' }, log))
  const members = await Promise.all(registries.map(async registry => {
    registry.cluster = await redisCluster({ redis: server.client() }).join(clusterContext({ log, replaceTimeout: 3_600_000, registry }))
    return registry.cluster
  }))
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
  t.strictSame(lines.filter(({ message }) => !message.includes('use the same tab id')), [], 'no claim waited for another claim of its own process')
  for (const member of members) await member.leave()
})
