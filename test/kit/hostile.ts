// Runs hostile-server.js as a child process, and reads the state that the server reports.
import { once } from 'node:events'
import { setTimeout as pause } from 'node:timers/promises'
import type { FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import type { OctaStarStreamsOptions } from '../../lib/index.ts'
import { startChild, type Child } from './child.ts'

export interface HostileState {
  size: number
  connections: number
  /** The number of live objects of each class, after a garbage collection. */
  objects: { streams: number, responses: number, claims: number }
  /** The log lines from `warn` up. */
  log: Array<{ level: number, msg: string }>
  /** Unhandled rejections, uncaught exceptions and Node's own warnings. */
  escaped: string[]
  /** The number of responses by status, without the responses of streams. */
  statuses: Record<string, number>
  /** The number of ended streams by reason. */
  reasons: Record<string, number>
  /** The largest number of streams at one time. */
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
  /** Resolves to the state as soon as `condition` holds, or else to the last state after half a minute. */
  until: (condition: (state: HostileState) => boolean) => Promise<HostileState>
}

export interface HostileOptions {
  options?: OctaStarStreamsOptions
  server?: FastifyServerOptions & { http?: object }
  /** The interval at which each stream of the scope `bystander` gets an event. Unit: milliseconds. Default: no events. */
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
      for (let checks = 1; ; checks++) {
        const state: HostileState = await ask('/state')
        if (condition(state) || checks === 600) return state
        await pause(100)
      }
    }
  }
}

/**
 * A loopback address for the nth connection. An address has about 28,000 ports for outgoing connections, and Linux reuses a closed
 * port only after a minute (TIME_WAIT), so many connections need many addresses.
 */
export function localAddress (nth: number): string {
  // Linux answers on all of 127.0.0.0/8. Other systems answer on 127.0.0.1 only.
  return process.platform === 'linux' ? `127.0.0.${1 + nth % 200}` : '127.0.0.1'
}
