// The contract of the option `cluster`: what an adapter that connects several processes must do. `octa-star-streams/redis` is an adapter.
// `octa-star-streams/conformance` tests each rule. How to write an adapter: docs/adapters.md.
import type { FastifyBaseLogger } from 'fastify'
import type { StreamKey } from './stream.ts'

/** A holder's claim on a stream key, as the holder's process passes the claim to the {@link Cluster}. */
export interface ClusterClaim {
  /**
   * Two claims compete if `key.scope` and `key.slot` are equal and `key.tabId` is a string. Claims without a tab id never compete,
   * although two processes may use the same slot for them. Scope, tab id and name are arbitrary strings.
   */
  readonly key: StreamKey
  /**
   * Begins to end the holder, and returns at once. Call `end` when a newer claim has replaced this claim, or when the claim
   * is evicted. A second call does nothing.
   */
  end (reason: 'replaced' | 'evicted'): void
  /**
   * Settles when the holder is gone (for a stream: the response is over, and the handler and all cleanups have settled) and
   * every predecessor that the holder was waiting for is gone too. Never rejects.
   */
  readonly released: Promise<unknown>
}

/** What the plugin passes to {@link ClusterAdapter.join}. */
export interface ClusterContext {
  /** The logger of the Fastify instance that registers the plugin. */
  readonly log: FastifyBaseLogger
  /**
   * The plugin's option `replaceTimeout`: how long a new stream waits for a predecessor at most. Unit: milliseconds, from 1
   * to 2147483647. The option's default is `5000`.
   */
  readonly replaceTimeout: number
  /** Keeps apart registries that share an adapter. The same in all processes. `undefined` for the first, then `'2'`, `'3'`, ... */
  readonly namespace?: string
}

/**
 * The value of the plugin's option `cluster`.
 *
 * @example await fastify.register(octaStarStreams, { cluster: redisCluster({ redis: fastify.redis }) })
 */
export interface ClusterAdapter {
  /**
   * Makes this process a member of the cluster. Called once, when the plugin is registered. The registration waits for the
   * result, and fails if `join` throws or rejects.
   */
  join (context: ClusterContext): Cluster | Promise<Cluster>
}

/**
 * The membership of a process in a cluster. Within a process, the registry keeps a single stream per key. The registry asks the
 * cluster about all further processes.
 *
 * No method throws, and only `evict` rejects. If the store is unreachable, answer as if this process were alone, warn once,
 * and reconcile on reconnection.
 */
export interface Cluster {
  /**
   * Makes `claim` the newest claim on `claim.key` in all processes, in an atomic step. The claims of each process count in
   * the order of the calls. If another process made the previous claim, that process calls `end('replaced')` on the previous claim.
   *
   * Resolves when the previous claim is gone, or when the process of the previous claim is. Returns `undefined` if there is
   * nothing to wait for. The caller stops waiting after `replaceTimeout`. If `claim` turns out not to be the newest, because
   * a message was lost or the store was unreachable, the cluster soon calls `end('replaced')` on `claim`.
   */
  claim (claim: ClusterClaim): Promise<unknown> | undefined
  /** Removes `claim` from the cluster after the holder is gone. Does nothing if a newer claim has replaced `claim`. */
  release (claim: ClusterClaim): void
  /**
   * Calls `end('evicted')` on every claim that other processes have in `scope`, or only on the claims of the tab `tabId`.
   * Resolves to the number of these claims when all are gone. Rejects if that cannot be confirmed, because the store is
   * unreachable or because claims are not gone within `replaceTimeout`. A process that is unreachable during the eviction
   * must end the evicted claims as soon as the process reaches the store again.
   *
   * @param scope the scope key in canonical form, `StreamKey.scope`
   */
  evict (scope: string, tabId?: string): Promise<number>
  /** Resolves to the number of claims that other processes have in `scope`, or to 0 if the store is unreachable. */
  count (scope: string): Promise<number>
  /**
   * Removes all claims of this process from the cluster, and frees what `join` allocated. Called once, when the server has
   * closed and every holder is gone or given up.
   */
  leave (): Promise<void>
}
