// Tells from which library the application's client is.
import type { RedisDriver } from '../connection.ts'
import { IoredisDriver, isIoredisClient, type IoredisClient } from './ioredis.ts'
import { isNodeRedisClient, NodeRedisDriver, type NodeRedisClient } from './node-redis.ts'

/** A client of `ioredis`, `iovalkey` or `redis`, of any kind. */
export type RedisClient = IoredisClient | NodeRedisClient

/**
 * Returns a builder of drivers for `client`, or `undefined` if `client` is not a client of a known library. Looks for methods
 * that only one of the libraries has: `createBuiltinCommand` is of ioredis and iovalkey, `withTypeMapping` of node-redis
 * since version 5. `instanceof` would need the packages, and would fail if a package is installed twice.
 */
export function driverOf (client: unknown): (() => RedisDriver) | undefined {
  if (isIoredisClient(client)) return () => new IoredisDriver(client)
  if (isNodeRedisClient(client)) return () => new NodeRedisDriver(client)
  return undefined
}
