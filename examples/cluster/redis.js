// The Redis that REDIS_URL names, or else one of the demo's own, which keeps nothing.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export async function startRedis () {
  if (process.env.REDIS_URL !== undefined) return { url: process.env.REDIS_URL, async close () {} }
  const directory = await mkdtemp(join(tmpdir(), 'octa-star-demo-'))
  const url = join(directory, 'redis.sock')
  // In a group of its own: Ctrl-C would end it before the processes have said goodbye.
  const server = spawn('redis-server', ['--port', '0', '--unixsocket', url, '--save', '', '--dir', directory], { stdio: 'ignore', detached: true })
  try {
    await once(server, 'spawn')
  } catch {
    await rm(directory, { recursive: true })
    throw new Error('it needs a Redis: install redis-server, or name one that runs, as in REDIS_URL=redis://127.0.0.1:6379 npm run demo:cluster')
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
