// The servers of another Debian: Valkey 8 and Redis 8 keep the contract with every client library, and a Redis that is too old is refused.
import { setTimeout as pause } from 'node:timers/promises'
import { Redis, type RedisOptions } from 'ioredis'
import { Redis as Valkey } from 'iovalkey'
import { createClient } from 'redis'
import Fastify from 'fastify'
import t from 'tap'
import octaStarStreams from '../../lib/index.ts'
import { redisCluster, type RedisClient } from '../../lib/redis/index.ts'
import { buildApp, streamRoute, withSignals } from '../kit/app.ts'
import { connect } from '../kit/client.ts'
import { conformance } from '../kit/conformance.ts'
import { debianServers } from '../kit/debian-servers.ts'
import { redisServer } from '../kit/redis.ts'

const debian13 = debianServers('trixie', ['valkey-server', 'redis-server'])
const debian11 = debianServers('bullseye', ['redis-server'])

interface Made {
  redis: RedisClient
  close: () => unknown
}

const clients: Record<string, (access: RedisOptions) => Made | Promise<Made>> = {
  ioredis (access) {
    const redis = new Redis(access)
    return { redis, close: () => redis.disconnect() }
  },
  iovalkey ({ port }) {
    const redis = new Valkey({ port: port! })
    return { redis, close: () => redis.disconnect() }
  },
  async redis ({ port }) {
    const redis = createClient({ socket: { host: '127.0.0.1', port: port! } })
    await redis.connect()
    return { redis, close: () => redis.destroy() }
  }
}

for (const [server, program, version] of [['Valkey 8', 'valkey-server', /^valkey_version:(8\.\S+)/m], ['Redis 8', 'redis-server', /^redis_version:(8\.\S+)/m]] as const) {
  for (const [client, make] of Object.entries(clients)) {
    t.test(`${server} keeps the contract with ${client}`, debian13.options, async t => {
      const { access, client: admin } = await redisServer(t, [], {}, debian13.path(program))
      t.match(await admin().info('server'), version)
      let round = 0
      await conformance(t, {
        build () {
          const prefix = `round-${++round}:`
          const made: Made[] = []
          return {
            async adapter () {
              const client = await make(access)
              client.redis.on('error', () => {})
              made.push(client)
              return redisCluster({ redis: client.redis, prefix })
            },
            async tearDown () { for (const { close } of made) await close() }
          }
        }
      })
    })
  }
}

t.test('a Valkey 8 that is killed and restarted empty learns every stream again, and the newest stream of a tab still wins', debian13.options, async t => {
  const server = await redisServer(t, [], {}, debian13.path('valkey-server'))
  async function startProcess () {
    const app = await buildApp(t, { cluster: redisCluster({ redis: server.client() }) })
    return { streams: streamRoute(app), registry: app.fastify.streamRegistry, ...await app.listen() }
  }
  const [one, two] = [await startProcess(), await startProcess()]
  // Each process counts the streams of the other process: a claim that Redis does not know is not counted.
  const counts = async () => [await one.registry.count('bob'), await two.registry.count('ann')]
  for (const tabId of ['a', 'b']) await connect(one.url(withSignals('/stream/ann', { tabId })))
  await connect(two.url(withSignals('/stream/bob', { tabId: 'c' })))
  t.strictSame(await counts(), [1, 2])
  await server.kill()
  t.strictSame(await counts(), [0, 0], 'without Redis a process counts its own streams')
  await server.start()
  // Ten seconds, and more on a slow machine, where each pause takes longer.
  for (let checks = 0; checks < 500 && (await counts()).join() !== '1,2'; checks++) await pause(20)
  t.strictSame(await counts(), [1, 2])
  t.strictSame([...one.streams, ...two.streams].map(({ signal }) => signal.aborted), [false, false, false], 'no stream has ended')
  await connect(two.url(withSignals('/stream/ann', { tabId: 'a' })))
  t.equal(await one.streams[0]!.closed, 'replaced')
})

t.test('the registration fails with a Redis older than 6.2, unless the user may not ask for the version', debian11.options, async t => {
  const server = await redisServer(t, [], {}, debian11.path('redis-server'))
  const register = async (access: RedisOptions) => {
    const fastify = Fastify()
    t.teardown(() => fastify.close())
    await fastify.register(octaStarStreams, { cluster: redisCluster({ redis: server.client(access) }) })
  }
  await t.rejects(register({}), {
    code: 'FST_ERR_OCTA_STAR_REDIS_VERSION',
    message: /^octa-star-streams: expected Redis 6\.2 or later, or Valkey, got Redis 6\.0\.\d+\. Update Redis$/
  })
  await server.client().call('ACL', 'SETUSER', 'limited', 'on', '>secret', '~*', '+@all', '-info')
  await register({ username: 'limited', password: 'secret' })
})
