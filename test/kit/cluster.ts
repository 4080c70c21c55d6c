// Starts Fastify processes that form a cluster, and keeps the lines that the processes print.
import { setTimeout as pause } from 'node:timers/promises'
import type { Test } from 'tap'
import { startChild, type Child } from './child.ts'

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

export interface ClusterProcess extends Child {
  url: (path: string) => string
  ask: (path: string, method?: string) => Promise<number>
}

export interface TestCluster {
  processes: ClusterProcess[]
  /** All lines of all processes, in the order of arrival. */
  said: Said[]
  /** The streams of a key that are open and not gone. */
  live: (key: string) => Said[]
  /** Resolves when `condition` returns true. Checks every few milliseconds. */
  until: (condition: () => boolean) => Promise<void>
}

export async function startCluster (t: Test, count: number, redisPorts: number | number[], env: Record<string, string> = {}): Promise<TestCluster> {
  const said: Said[] = []
  const processes = await Promise.all(Array.from({ length: count }, async (_, i): Promise<ClusterProcess> => {
    const redisPort = typeof redisPorts === 'number' ? redisPorts : redisPorts[i]!
    const child = startChild(t, 'test/kit/cluster-process.js', { REDIS_PORT: String(redisPort), ...env })
    const listening = new Promise<number>(resolve => {
      child.lines.on('line', line => {
        const parsed = JSON.parse(line)
        const word: Said = { ...parsed, at: BigInt(parsed.at), process: i }
        said.push(word)
        if (word.event === 'listening') resolve(word.port!)
      })
    })
    const port = await listening
    const url = (path: string) => `http://127.0.0.1:${port}${path}`
    return { ...child, url, ask: async (path, method = 'GET') => Number(await (await fetch(url(path), { method })).text()) }
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
