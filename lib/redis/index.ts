// The entry point `octa-star-streams/redis`: checks the options of `redisCluster` and makes the adapter.
import type { FastifyBaseLogger } from 'fastify'
import { FST_ERR_OCTA_STAR_OPTION, FST_ERR_OCTA_STAR_UNKNOWN_OPTION, show } from '../errors.ts'
import { driverOf, type RedisClient } from './clients/index.ts'
import { DrivenConnection } from './connection.ts'
import { Member } from './member.ts'
import { MIN_LEASE } from './protocol.ts'
import { checkVersion } from './version.ts'
import type { ClusterAdapter } from '../../types/index.ts'

export type { RedisClient }

export interface RedisClusterOptions {
  /**
   * The application's client for Redis 6.2 or later, or Valkey. With an older Redis the registration of the plugin rejects with
   * `FST_ERR_OCTA_STAR_REDIS_VERSION`. One of:
   * - `new Redis()` or `new Cluster()` of `ioredis` or `iovalkey`, also with Sentinel, or `fastify.redis` of `@fastify/redis`;
   * - `createClient()`, `createCluster()`, `createSentinel()` or `createClientPool()` of `redis` 5 or 6. Call `connect()`
   *   before you register the plugin, and do not await the promise, which waits until Redis is there. The adapter never calls
   *   `connect()` on a client of `redis`.
   *
   * The adapter sends commands through this client, opens one more connection with the same options to subscribe, and never
   * closes the client. With `createSentinel()` and `createClientPool()`, the adapter opens a connection for commands too. A
   * command that the client refuses, for example after `commandTimeout` of ioredis, counts as an outage. Required.
   *
   * @example
   * import { createClient } from 'redis'
   * const redis = createClient({ url: 'redis://localhost' })
   * redis.on('error', error => fastify.log.error(error))
   * redis.connect().catch(error => fastify.log.error(error))
   * const cluster = redisCluster({ redis })
   */
  redis: RedisClient
  /**
   * The beginning of the names of all keys and channels in Redis. All processes of an application need the same prefix. Two
   * applications that share a Redis need different prefixes. Pass the same adapter to sibling contexts of a process: the plugin
   * keeps their streams apart. Two adapters with the same prefix share their streams. A string without braces or spaces.
   * Default: `'octa-star:'`.
   *
   * @example redisCluster({ redis: fastify.redis, prefix: 'shop:' })
   */
  prefix?: string | undefined
  /**
   * How long Redis keeps the keys of a scope that no process renews, for example because the process was killed. The streams
   * of a killed process do not count any longer after 2.5 s, whatever the lease. A process renews the keys twice per
   * lease, so a longer lease costs Redis fewer commands. Unit: milliseconds, a whole number from 12000 to 3600000. Default: `600000`.
   */
  lease?: number | undefined
  /**
   * The greatest event that `streamRegistry.send` and `broadcast` take. Redis holds a message for each process that the message goes to until the
   * process has read it, and drops the message if more waits than `client-output-buffer-limit pubsub` of Redis allows. With the default of that limit,
   * an event of about 30 MB or more never arrives in other processes. Unit: bytes of the event as the clients receive it, a whole number from 1 to
   * 134217728. Default: `1048576`.
   */
  maxMessageBytes?: number | undefined
  /**
   * The logger for warnings, for example that Redis is away or that another process did not end a stream in time. Default:
   * the logger of the Fastify instance that registers the plugin.
   */
  log?: FastifyBaseLogger | undefined
}

export const defaults = Object.freeze({ prefix: 'octa-star:', lease: 600_000, maxMessageBytes: 1_048_576 })

/** How long the server may take to tell its version. A slow server is used without the version. */
const VERSION_TIMEOUT_MS = 1_000

const KNOWN_OPTIONS = ['redis', 'prefix', 'lease', 'maxMessageBytes', 'log'] satisfies Array<keyof RedisClusterOptions>

/**
 * Makes the value for the plugin's option `cluster`: processes that share a Redis or Valkey keep at most one stream per
 * browser tab, counted over all processes. If Redis does not answer, streams still start, and each process replaces only the streams of that process.
 *
 * @throws FST_ERR_OCTA_STAR_OPTION, FST_ERR_OCTA_STAR_UNKNOWN_OPTION if an option is not valid
 * @example await fastify.register(octaStarStreams, { cluster: redisCluster({ redis: fastify.redis }) })
 */
export function redisCluster (options: RedisClusterOptions): ClusterAdapter {
  const given = Object.fromEntries(Object.entries(options ?? {}).filter(([, value]) => value !== undefined))
  for (const name of Object.keys(given)) {
    if (!(KNOWN_OPTIONS as string[]).includes(name)) throw new FST_ERR_OCTA_STAR_UNKNOWN_OPTION(`cluster.${name}`, KNOWN_OPTIONS.join(', '))
  }
  const { redis, prefix, lease, maxMessageBytes, log: ownLog } = { ...defaults, ...given } as RedisClusterOptions & typeof defaults
  const makeDriver = driverOf(redis)
  if (makeDriver === undefined) throw new FST_ERR_OCTA_STAR_OPTION('cluster.redis', 'a client of ioredis, iovalkey or redis', show(redis))
  if (typeof prefix !== 'string' || /[{}\s]/.test(prefix)) throw new FST_ERR_OCTA_STAR_OPTION('cluster.prefix', 'a string without braces or spaces', show(prefix))
  if (!Number.isSafeInteger(lease) || lease < MIN_LEASE || lease > 3_600_000) {
    throw new FST_ERR_OCTA_STAR_OPTION('cluster.lease', `a whole number of milliseconds from ${MIN_LEASE} to 3600000`, show(lease))
  }
  if (!Number.isSafeInteger(maxMessageBytes) || maxMessageBytes < 1 || maxMessageBytes > 134_217_728) {
    throw new FST_ERR_OCTA_STAR_OPTION('cluster.maxMessageBytes', 'a whole number of bytes from 1 to 134217728', show(maxMessageBytes))
  }
  return {
    async join (context) {
      const { log, namespace } = context
      const ownPrefix = namespace === undefined ? prefix : `${prefix}${namespace}:`
      let connection!: DrivenConnection
      const member = new Member({ ...context, prefix: ownPrefix, lease, maxMessageBytes, log: ownLog ?? log }, listener => (connection = new DrivenConnection(makeDriver(), listener)))
      await member.join()
      // A server that does not answer now is not asked again.
      if (member.isAway) return member
      try {
        await checkVersion(connection, ownPrefix, VERSION_TIMEOUT_MS)
      } catch (error) {
        await member.leave()
        throw error
      }
      return member
    }
  }
}
