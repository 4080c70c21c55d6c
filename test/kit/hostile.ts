// The attacked server as a child process, and what it says of itself.
import { once } from 'node:events'
import { setTimeout as pause } from 'node:timers/promises'
import type { FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import type { OctaStarStreamsOptions } from '../../lib/index.ts'
import { startChild, type Child } from './child.ts'

export interface HostileState {
  size: number
  connections: number
  /** How many objects of each class are alive, after a garbage collection. */
  objects: { LiveStream: number, StreamResponse: number, Claim: number }
  /** From `warn` on. */
  log: Array<{ level: number, msg: string }>
  /** Unhandled rejections, uncaught exceptions and Node's own warnings. */
  escaped: string[]
  /** How many responses had which status; those of streams are not among them. */
  statuses: Record<string, number>
  /** How many streams ended for which reason. */
  reasons: Record<string, number>
  /** The most streams that there were at once. */
  most: number
  beats: number
  heap: number
  rss: number
}

export interface HostileServer extends Child {
  port: number
  url: (path: string) => string
  state: () => Promise<HostileState>
  count: (scope: string) => Promise<number>
  /** Resolves to the state as soon as `condition` holds, or to what it is half a minute later. */
  until: (condition: (state: HostileState) => boolean) => Promise<HostileState>
}

export interface HostileOptions {
  options?: OctaStarStreamsOptions
  server?: FastifyServerOptions & { http?: object }
  /** How often the streams of the scope `bystander` are sent an event. Unit: milliseconds. Default: never. */
  heartbeat?: number
}

export async function startHostile (t: Test, { options = {}, server = {}, heartbeat = 0 }: HostileOptions = {}): Promise<HostileServer> {
  const child = startChild(t, 'test/kit/hostile-server.js', { OPTIONS: JSON.stringify(options), SERVER: JSON.stringify(server), HEARTBEAT: String(heartbeat), NODE_OPTIONS: '--disable-warning=ExperimentalWarning' })
  const [said] = await Promise.race([once(child.lines, 'line'), child.exited])
  if (typeof said !== 'string') throw new Error(`the server did not start: ${child.errors()}`)
  const { port, admin } = JSON.parse(said)
  const ask = async (path: string) => await (await fetch(`http://127.0.0.1:${admin}${path}`, { headers: { connection: 'close' } })).json() as any
  return {
    ...child,
    port,
    url: path => `http://127.0.0.1:${port}${path}`,
    state: () => ask('/state'),
    count: scope => ask(`/${encodeURIComponent(scope)}`),
    async until (condition) {
      for (const start = performance.now(); ;) {
        const state: HostileState = await ask('/state')
        if (condition(state) || performance.now() - start > 30_000) return state
        await pause(100)
      }
    }
  }
}

/** An address of this machine for the nth connection: one has ports for 28,000, each of which is used up for a minute. */
export function localAddress (nth: number): string {
  // Of 127.0.0.0/8 other systems have only the first.
  return process.platform === 'linux' ? `127.0.0.${1 + nth % 200}` : '127.0.0.1'
}
