// octa-star-streams/redis: one stream for each tab across processes, on one Redis or Valkey.
import type { FastifyBaseLogger } from 'fastify'
import { FST_ERR_OCTA_STAR_OPTION, show } from '../errors.ts'
import { RedisLink, type RedisClient } from './link.ts'
import { Member } from './member.ts'
import type { ClusterAdapter } from '../../types/index.ts'

export type { RedisClient }

export interface RedisClusterOptions {
  /**
   * The application's client: `new Redis()` or `new Cluster()` of `ioredis` or `iovalkey`, or `fastify.redis`. It is
   * used for commands, duplicated for a subscription, and never closed. Redis 6.2 or later, or Valkey.
   */
  redis: RedisClient
  /**
   * What the names of all keys and channels begin with. All processes of an application have the same, two
   * applications on one Redis different ones. A string without braces or spaces. Default: `'octa-star:'`.
   */
  prefix?: string
  /**
   * How long Redis remembers what a process holds that no longer says so. Unit: milliseconds, 1000 to 3600000.
   * Default: `30000`.
   */
  lease?: number
  /** Where to warn that Redis is away. Default: the log of the Fastify instance. */
  log?: FastifyBaseLogger
}

export const defaults = Object.freeze({ prefix: 'octa-star:', lease: 30_000 })

/**
 * The option `cluster` for several processes on one Redis or Valkey.
 *
 * @throws FST_ERR_OCTA_STAR_OPTION
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
    async join ({ log, replaceTimeout }) {
      const member = new Member({ prefix, lease, replaceTimeout, log: ownLog ?? log }, member => new RedisLink(redis, member))
      await member.joined()
      return member
    }
  }
}
