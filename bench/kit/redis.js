// A Redis for a benchmark, and clients of that Redis. Uses the server that REDIS_URL names, or else starts a server.
import { Redis } from 'ioredis'
import { startRedis as start } from '../../examples/cluster/redis.js'

export async function startRedis () {
  try {
    const redis = await start()
    // Runs also if a benchmark fails, because a Redis that we started does not stop with this process.
    process.once('exit', () => { redis.close() })
    return redis
  } catch {
    throw new Error('needs a Redis: install redis-server, or name one that runs, as in REDIS_URL=redis://127.0.0.1:6379 npm run bench')
  }
}

/** Resolves to a connected client that has the commands `scripts`. */
export async function redisClient (url, scripts = []) {
  const redis = new Redis(url)
  // A Redis that was just started may not listen yet: ioredis tries again.
  redis.on('error', () => {})
  for (const { lua } of scripts) await redis.script('LOAD', lua)
  await redis.ping()
  return redis
}
