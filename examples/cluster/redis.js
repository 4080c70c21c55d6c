// The Redis that REDIS_URL names. Without REDIS_URL, a redis-server of the demo's own that stores nothing on disk.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export async function startRedis () {
  if (process.env.REDIS_URL !== undefined) return { url: process.env.REDIS_URL, async close () {} }
  const directory = await mkdtemp(join(tmpdir(), 'octa-star-demo-'))
  const url = join(directory, 'redis.sock')
  // Detached, because Ctrl-C signals the whole process group, and Redis must outlive the processes that leave the cluster.
  const server = spawn('redis-server', ['--port', '0', '--unixsocket', url, '--save', '', '--dir', directory], { stdio: 'ignore', detached: true })
  try {
    await once(server, 'spawn')
  } catch {
    await rm(directory, { recursive: true })
    throw new Error('it needs Redis. Install redis-server, or use a running Redis: REDIS_URL=redis://127.0.0.1:6379 npm run example:cluster')
  }
  return {
    url,
    async close () {
      server.kill()
      await once(server, 'exit')
      await rm(directory, { recursive: true })
    }
  }
}
