// The entry point `octa-star-streams/redis`: checks the options of `redisCluster` and makes the adapter.
import type { FastifyBaseLogger } from 'fastify'
import { FST_ERR_OCTA_STAR_OPTION, show } from '../errors.ts'
import { IoredisConnection, type RedisClient } from './connection.ts'
import { Member } from './member.ts'
import type { ClusterAdapter } from '../../types/index.ts'

export type { RedisClient }

export interface RedisClusterOptions {
  /**
   * The application's client for Redis 6.2 or later, or Valkey: `new Redis()` or `new Cluster()` of `ioredis` or `iovalkey`,
   * or `fastify.redis` of `@fastify/redis`. The adapter sends commands through this client, duplicates the client for one
   * subscription, and never closes the client. Required.
   */
  redis: RedisClient
  /**
   * The beginning of the names of all keys and channels in Redis. All processes of an application need the same prefix. Two
   * applications that share a Redis need different prefixes. A string without braces or spaces. Default: `'octa-star:'`.
   *
   * @example redisCluster({ redis: fastify.redis, prefix: 'shop:' })
   */
  prefix?: string
  /**
   * How long Redis keeps a process's entries after the process stops renewing them, for example because the process was
   * killed. A process renews each entry twice per lease, so a longer lease costs Redis fewer commands. Unit: milliseconds, a
   * whole number from 1000 to 3600000. Default: `30000`.
   */
  lease?: number
  /**
   * The logger for warnings, for example that Redis is away or that another process did not end a stream in time. Default:
   * the logger of the Fastify instance that registers the plugin.
   */
  log?: FastifyBaseLogger
}

export const defaults = Object.freeze({ prefix: 'octa-star:', lease: 30_000 })

/**
 * Makes the value for the plugin's option `cluster`: processes that share a Redis or Valkey keep at most one stream per
 * browser tab, counted over all processes. If Redis does not answer, streams still start, and each process replaces only the streams of that process.
 *
 * @throws FST_ERR_OCTA_STAR_OPTION if an option is not valid
 * @example await fastify.register(octaStarStreams, { cluster: redisCluster({ redis: fastify.redis }) })
 */
export function redisCluster (options: RedisClusterOptions): ClusterAdapter {
  const { redis, prefix, lease, log: ownLog } = { ...defaults, ...options }
  if (typeof redis?.evalsha !== 'function' || typeof redis.duplicate !== 'function') {
    throw new FST_ERR_OCTA_STAR_OPTION('cluster.redis', 'a client of ioredis or iovalkey', show(redis))
  }
  if (typeof prefix !== 'string' || /[{}\s]/.test(prefix)) throw new FST_ERR_OCTA_STAR_OPTION('cluster.prefix', 'a string without braces or spaces', show(prefix))
  if (!Number.isSafeInteger(lease) || lease < 1_000 || lease > 3_600_000) {
    throw new FST_ERR_OCTA_STAR_OPTION('cluster.lease', 'a whole number of milliseconds from 1000 to 3600000', show(lease))
  }
  return {
    async join ({ log, replaceTimeout, namespace }) {
      const ownPrefix = namespace === undefined ? prefix : `${prefix}${namespace}:`
      const member = new Member({ prefix: ownPrefix, lease, replaceTimeout, log: ownLog ?? log }, listener => new IoredisConnection(redis, listener))
      await member.join()
      return member
    }
  }
}
