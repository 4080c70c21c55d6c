// The context that the plugin passes to an adapter when a process joins, for tests without the plugin.
import type { FastifyBaseLogger } from 'fastify'
import type { ClusterContext } from '../../lib/index.ts'
import type { Registry } from '../../lib/registry/registry.ts'
import { memoryLog } from './memory-log.ts'

interface Options {
  readonly log?: FastifyBaseLogger
  readonly replaceTimeout?: number
  readonly offlineDelay?: number
  readonly observesScopes?: boolean
  /** The registry whose streams get messages. Default: none. */
  readonly registry?: Registry
}

export function clusterContext ({ log = memoryLog().log, replaceTimeout = 5_000, offlineDelay = 5_000, observesScopes = false, registry }: Options = {}): ClusterContext {
  return {
    log,
    replaceTimeout,
    deliver: message => registry?.deliver(message) ?? 0,
    list: scope => registry?.listOwn(scope) ?? [],
    offlineDelay,
    observesScopes: () => observesScopes,
    wentOffline: scope => registry?.wentOffline(scope)
  }
}
