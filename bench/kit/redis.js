// A Redis for a benchmark, and clients of it: the one that REDIS_URL names, or else one of its own.
import { Redis } from 'ioredis'
import { startRedis as start } from '../../examples/cluster/redis.js'

export async function startRedis () {
  try {
    const redis = await start()
    // Also where a benchmark fails: a Redis of our own does not end with us.
    process.once('exit', () => { redis.close() })
    return redis
  } catch {
    throw new Error('needs a Redis: install redis-server, or name one that runs, as in REDIS_URL=redis://127.0.0.1:6379 npm run bench')
  }
}

/** Resolves to a client that is connected, and knows `scripts`. */
export async function redisClient (url, scripts = []) {
  const redis = new Redis(url)
  // A Redis of our own may not listen yet: ioredis tries again.
  redis.on('error', () => {})
  for (const { lua } of scripts) await redis.script('LOAD', lua)
  await redis.ping()
  return redis
}
