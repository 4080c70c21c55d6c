// Fastify processes that are one cluster, and what they say.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'

const root = fileURLToPath(new URL('../..', import.meta.url))

export interface Said {
  event: 'listening' | 'open' | 'gone' | 'log'
  at: bigint
  process: number
  key?: string
  number?: number
  id?: string
  reason?: string
  port?: number
  line?: { msg: string, level: number }
}

export interface ClusterProcess {
  url: (path: string) => string
  /** Sends a signal: the process is ended by its own pid alone. */
  signal: (signal: NodeJS.Signals) => void
  exited: Promise<unknown>
  ask: (path: string, method?: string) => Promise<number>
}

export interface TestCluster {
  processes: ClusterProcess[]
  /** All that was said, as it came. */
  said: Said[]
  /** The streams that were opened and are not gone. */
  live: (key: string) => Said[]
  /** Resolves when `condition` holds, which it looks at after each word. */
  until: (condition: () => boolean) => Promise<void>
}

export async function startCluster (t: Test, count: number, redisPorts: number | number[], env: Record<string, string> = {}): Promise<TestCluster> {
  const said: Said[] = []
  const processes = await Promise.all(Array.from({ length: count }, async (_, i): Promise<ClusterProcess> => {
    const redisPort = typeof redisPorts === 'number' ? redisPorts : redisPorts[i]!
    // Without tap's loaders: it runs the build.
    const child = spawn(process.execPath, ['test/kit/cluster-process.js'], {
      cwd: root, env: { PATH: process.env.PATH, REDIS_PORT: String(redisPort), ...env }, stdio: ['ignore', 'pipe', 'inherit']
    })
    const exited = once(child, 'exit')
    t.teardown(async () => {
      child.kill('SIGKILL')
      await exited
    })
    const lines = createInterface(child.stdout)
    const listening = new Promise<number>(resolve => {
      lines.on('line', line => {
        const parsed = JSON.parse(line)
        const word: Said = { ...parsed, at: BigInt(parsed.at), process: i }
        said.push(word)
        if (word.event === 'listening') resolve(word.port!)
      })
    })
    const port = await listening
    const url = (path: string) => `http://127.0.0.1:${port}${path}`
    return {
      url,
      exited,
      signal: signal => { child.kill(signal) },
      ask: async (path, method = 'GET') => Number(await (await fetch(url(path), { method })).text())
    }
  }))
  return {
    processes,
    said,
    live (key) {
      const gone = new Set(said.filter(({ event }) => event === 'gone').map(({ id }) => id))
      return said.filter(word => word.event === 'open' && word.key === key && !gone.has(word.id))
    },
    async until (condition) {
      while (!condition()) await pause(5)
    }
  }
}
