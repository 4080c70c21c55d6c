// The version of the server: a server that is too old is refused when the process joins the cluster.
import { hash } from 'node:crypto'
import { FST_ERR_OCTA_STAR_REDIS_VERSION } from '../errors.ts'
import { within } from '../wait.ts'
import type { RedisConnection } from './connection.ts'
import type { Script } from './scripts.ts'

// Redis 7 and Valkey tell scripts the version: https://redis.io/docs/latest/develop/programmability/lua-api/#redis.REDIS_VERSION
// Valkey tells the version of Redis with which Valkey is compatible. An older Redis tells the version in INFO, which the user
// may not be allowed to send.
const lua = `
if redis.REDIS_VERSION then return redis.REDIS_VERSION end
local info = redis.pcall('INFO', 'server')
return type(info) == 'string' and string.match(info, 'redis_version:(%S+)') or ''
`

export const VERSION: Script = { lua, sha: hash('sha1', lua) }

const OLDEST = [6, 2] as const

/**
 * Asks for the version of the server that holds the keys that begin with `prefix`.
 *
 * @throws FST_ERR_OCTA_STAR_REDIS_VERSION if the server is too old. An answer that is missing after `timeout` milliseconds, or
 * that is not a version, is no reason to refuse the server.
 */
export async function checkVersion (connection: RedisConnection, prefix: string, timeout: number): Promise<void> {
  let isOver = false
  let version: unknown
  // A script needs a key, which tells a Redis Cluster which node runs the script. The script does not use the key.
  const answered = connection.run(VERSION, [`${prefix}{0}:version`], [], () => !isOver).then(output => { version = output }, () => {})
  await within(answered, timeout)
  isOver = true
  if (isTooOld(version)) throw new FST_ERR_OCTA_STAR_REDIS_VERSION(version)
}

function isTooOld (version: unknown): version is string {
  const [, major, minor] = /^(\d+)\.(\d+)/.exec(String(version))?.map(Number) ?? []
  if (major === undefined || minor === undefined) return false
  return major < OLDEST[0] || (major === OLDEST[0] && minor < OLDEST[1])
}
