// The Redis adapter keeps the contract with every client: ioredis, iovalkey and redis, with a single server, Sentinel, a Cluster and a pool, and with all options.
import { Cluster, Redis, type RedisOptions } from 'ioredis'
import { Cluster as Cluster5, Redis as Redis5 } from 'ioredis-5'
import { Cluster as ValkeyCluster, Redis as Valkey } from 'iovalkey'
import { createClient, createClientPool, createCluster, createSentinel, RESP_TYPES } from 'redis'
import { createClient as createClient5, createClientPool as createClientPool5, createCluster as createCluster5, createSentinel as createSentinel5 } from 'redis-5'
import t, { type Test } from 'tap'
import { redisCluster, type RedisClient } from '../../lib/redis/index.ts'
import { conformance } from '../kit/conformance.ts'
import { redisNodes, redisOptions, redisOverTls, redisSentinel, redisServer } from '../kit/redis.ts'

/** A client as a process of an application has a client, and how the process closes the client. */
interface Made {
  redis: RedisClient
  close: () => unknown
}

/** Starts the servers, and resolves to a function that makes clients. */
type Variant = (t: Test) => Promise<() => Made | Promise<Made>>

/** A client of ioredis or iovalkey. */
function io (redis: RedisClient & { disconnect (): void }): Made {
  redis.on('error', () => {})
  return { redis, close: () => redis.disconnect() }
}

/** A client of node-redis, connected as its manual says. */
async function node (redis: RedisClient & { on: (event: 'error', listener: () => void) => unknown, connect: () => Promise<unknown>, destroy: () => unknown }): Promise<Made> {
  redis.on('error', () => {})
  await redis.connect()
  return { redis, close: () => redis.destroy() }
}

const host = '127.0.0.1'

/** Options that an application may need for its own commands. The adapter must work the same with these options. */
const awkward: RedisOptions = {
  db: 3, commandTimeout: 2_000, enableOfflineQueue: false, maxRetriesPerRequest: 0, enableReadyCheck: false, stringNumbers: true, enableAutoPipelining: true, lazyConnect: true, autoResubscribe: false, retryStrategy: () => null
}

const bytes = { [RESP_TYPES.BLOB_STRING]: Buffer, [RESP_TYPES.SIMPLE_STRING]: Buffer, [RESP_TYPES.NUMBER]: String }

const variants: Record<string, Variant> = {
  async ioredis (t) {
    const { access } = await redisServer(t)
    return () => io(new Redis(access))
  },
  async 'ioredis, with options that must not matter' (t) {
    const { access } = await redisServer(t)
    return () => io(new Redis({ ...access, ...awkward }))
  },
  async 'ioredis 5, with options that must not matter' (t) {
    const { access } = await redisServer(t)
    return () => io(new Redis5({ ...access, ...awkward } as object))
  },
  async 'ioredis, with RESP3 and native replies' (t) {
    const { access } = await redisServer(t)
    return () => io(new Redis({ ...access, protocol: 3, replyMapping: 'resp3' }))
  },
  async 'iovalkey, with a key prefix and a password' (t) {
    const { port } = await redisServer(t, ['--requirepass', 'secret'], { password: 'secret' })
    return () => io(new Valkey({ port, password: 'secret', keyPrefix: 'app:' }))
  },
  async 'ioredis, with lazyConnect and a key prefix with a hash tag' (t) {
    const { access } = await redisServer(t)
    return () => io(new Redis({ ...access, lazyConnect: true, keyPrefix: '{app}:' }))
  },
  async 'ioredis, over TLS with certificates on both sides' (t) {
    const { access } = await redisOverTls(t)
    return () => io(new Redis(access))
  },
  async 'ioredis, with Sentinel' (t) {
    const { port } = await redisSentinel(t)
    return () => io(new Redis({ sentinels: [{ host, port }], name: 'mymaster' }))
  },
  async 'iovalkey, with Sentinel' (t) {
    const { port } = await redisSentinel(t)
    return () => io(new Valkey({ sentinels: [{ host, port }], name: 'mymaster' }))
  },
  async 'a Redis Cluster of one node' (t) {
    const [node] = await redisNodes(t, 1)
    return () => io(new Cluster([{ host, port: node!.port }]))
  },
  async 'a Redis Cluster of three nodes: ioredis, ioredis 5 and iovalkey with options that must not matter' (t) {
    const nodes = await redisNodes(t, 3)
    let turn = 0
    return () => {
      const seeds = [{ host, port: nodes[turn++ % 3]!.port }]
      const options = { lazyConnect: true, enableAutoPipelining: true, scaleReads: 'slave' as const, enableOfflineQueue: false, redisOptions: { commandTimeout: 2_000, stringNumbers: true, keyPrefix: 'app:' } }
      return io([
        () => new Cluster(seeds, { keyPrefix: 'app:' }),
        () => new Cluster(seeds, options),
        () => new Cluster5(seeds, options),
        () => new ValkeyCluster(seeds, options)
      ][turn % 4]!())
    }
  },
  async 'redis' (t) {
    const { port } = await redisServer(t)
    return () => node(createClient({ url: `redis://${host}:${port}` }))
  },
  async 'redis, with options that must not matter' (t) {
    const { port } = await redisServer(t, ['--requirepass', 'secret'], { password: 'secret' })
    return () => node(createClient({
      RESP: 2,
      database: 3,
      password: 'secret',
      keyPrefix: 'app:',
      disableOfflineQueue: true,
      commandsQueueMaxLength: 10_000,
      pingInterval: 20,
      commandOptions: { typeMapping: bytes, timeout: 2_000 },
      socket: { host, port, reconnectStrategy: false }
    }))
  },
  async 'redis, with a type mapping and client-side caching' (t) {
    const { port } = await redisServer(t)
    return async () => {
      const client = createClient({ RESP: 3, clientSideCache: { ttl: 0, maxEntries: 10 }, socket: { host, port, socketTimeout: 60_000 } })
      const { close } = await node(client)
      return { redis: client.withTypeMapping(bytes), close }
    }
  },
  async 'redis, over TLS with certificates on both sides' (t) {
    const { port, access } = await redisOverTls(t)
    return () => node(createClient({ socket: { ...access.tls, tls: true, host, port } }))
  },
  async 'redis 5' (t) {
    const { port } = await redisServer(t)
    return () => node(createClient5({ url: `redis://${host}:${port}` }))
  },
  async 'redis 5, with options that must not matter' (t) {
    const { port } = await redisServer(t)
    return () => node(createClient5({
      RESP: 3, database: 3, disableOfflineQueue: true, commandOptions: { typeMapping: bytes }, socket: { host, port, reconnectStrategy: false }
    }))
  },
  async 'a pool of redis' (t) {
    const { port } = await redisServer(t)
    return () => node(createClientPool({ socket: { host, port }, keyPrefix: 'app:' }, { minimum: 2, maximum: 4 }))
  },
  async 'a pool of redis 5 with a type mapping' (t) {
    const { port } = await redisServer(t)
    return () => node(createClientPool5({ socket: { host, port }, commandOptions: { typeMapping: bytes } }))
  },
  async 'redis, with Sentinel' (t) {
    const { port } = await redisSentinel(t)
    return () => node(createSentinel({ name: 'mymaster', sentinelRootNodes: [{ host, port }] }))
  },
  async 'redis, with Sentinel, a type mapping and reads from replicas' (t) {
    const { port } = await redisSentinel(t, 1)
    return () => node(createSentinel({ name: 'mymaster', sentinelRootNodes: [{ host, port }], masterPoolSize: 3, replicaPoolSize: 1, commandOptions: { typeMapping: bytes } }))
  },
  async 'redis 5, with Sentinel' (t) {
    const { port } = await redisSentinel(t)
    return () => node(createSentinel5({ name: 'mymaster', sentinelRootNodes: [{ host, port }] }))
  },
  async 'a Redis Cluster of three nodes: redis and redis 5, with options that must not matter' (t) {
    const nodes = await redisNodes(t, 3)
    let turn = 0
    return () => {
      const rootNodes = [{ socket: { host, port: nodes[turn++ % 3]!.port } }]
      // `node` is called for each: TypeScript needs thirteen seconds to find the common type of the four clients.
      return [
        () => node(createCluster({ rootNodes })),
        () => node(createCluster({ rootNodes, RESP: 2, useReplicas: true, minimizeConnections: true, commandOptions: { typeMapping: bytes } })),
        () => node(createCluster5({ rootNodes, RESP: 3, useReplicas: true, commandOptions: { typeMapping: bytes } })),
        () => node(createCluster5({ rootNodes }))
      ][turn % 4]!()
    }
  }
}

// Stops only a test that hangs.
t.setTimeout(300_000 * Object.keys(variants).length)

for (const [name, start] of Object.entries(variants)) {
  t.test(name, redisOptions, async t => {
    const make = await start(t)
    let round = 0
    await conformance(t, {
      build () {
        const prefix = `round-${++round}:`
        const made: Made[] = []
        return {
          async adapter () {
            const client = await make()
            made.push(client)
            return redisCluster({ redis: client.redis, prefix })
          },
          async tearDown () { for (const { close } of made) await close() }
        }
      }
    })
  })
}
