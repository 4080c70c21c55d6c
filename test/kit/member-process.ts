// Stands in for a process of a cluster: a registry with a separate membership, whose holders are gone as soon as the registry ends them.
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as pause } from 'node:timers/promises'
import type { Test } from 'tap'
import { defaults } from '../../lib/options.ts'
import { redisCluster, type RedisClient } from '../../lib/redis/index.ts'
import { Registry } from '../../lib/registry/registry.ts'
import { streamKey } from '../../lib/registry/stream-key.ts'
import { clusterContext } from './cluster-context.ts'
import { memoryLog } from './memory-log.ts'
import type { CloseReason, Holder } from '../../lib/index.ts'

export class QuickHolder implements Holder {
  reason: CloseReason | undefined
  /** Unit: milliseconds of `performance.now()`. */
  endedAt = Infinity
  #end!: () => void
  readonly gone = new Promise<void>(resolve => { this.#end = resolve })

  get isLive (): boolean {
    return this.reason === undefined
  }

  close (reason: CloseReason): void {
    if (!this.isLive) return
    this.reason = reason
    this.endedAt = performance.now()
    this.#end()
  }
}

export interface MemberProcess {
  readonly registry: Registry
  /** The messages of the log, in order. */
  readonly said: () => string[]
  /** The messages of the errors in the log. */
  readonly errors: () => string[]
  /** Resolves when the holder has started, or was overtaken. `waited` is in milliseconds. */
  readonly start: (scope: string, tab: string) => Promise<{ readonly holder: QuickHolder, readonly waited: number }>
  /** Ends cleanly. */
  readonly leave: () => Promise<void>
}

export async function memberProcess (t: Test, redis: RedisClient, { lease = 600_000, replaceTimeout = 5_000, offlineDelay = 5_000, observesScopes = false } = {}): Promise<MemberProcess> {
  const { log, lines } = memoryLog()
  const registry = new Registry({ ...defaults, replaceTimeout, offlineDelay }, log)
  const cluster = registry.cluster = await redisCluster({ redis, lease }).join(clusterContext({ log, replaceTimeout, offlineDelay, observesScopes, registry }))
  let hasLeft = false
  const leave = async () => {
    if (hasLeft) return
    hasLeft = true
    await registry.close(1_000)
    await cluster.leave()
  }
  t.teardown(leave)
  return {
    registry,
    // pino also takes a message without details.
    said: () => lines.map(({ message, details }) => message ?? String(details)),
    errors: () => lines.map(({ details }) => (details as { err?: Error }).err?.message).filter(message => message !== undefined),
    async start (scope, tab) {
      const holder = new QuickHolder()
      const begun = performance.now()
      await registry.replaceAndRegister(streamKey(scope, tab), holder)
      return { holder, waited: performance.now() - begun }
    },
    leave
  }
}

/** Measures how long a busy machine holds up this process and the servers: the longest delay of the event loop, and the slowest reply to a PING. */
export function measureDelays (t: Test, servers: ReadonlyArray<{ ping: () => Promise<unknown> }>): { longest: () => number } {
  const histogram = monitorEventLoopDelay({ resolution: 10 })
  histogram.enable()
  let slowest = 0
  const state = { isOver: false }
  const measure = async (server: { ping: () => Promise<unknown> }) => {
    while (!state.isOver) {
      const begun = performance.now()
      await server.ping().catch(() => {})
      slowest = Math.max(slowest, performance.now() - begun)
      await pause(5)
    }
  }
  for (const server of servers) measure(server)
  t.teardown(() => {
    state.isOver = true
    histogram.disable()
  })
  return { longest: () => slowest + histogram.max / 1e6 }
}
