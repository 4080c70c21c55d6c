// What an adapter is that makes several processes one: written for Redis, and open to others.
import type { FastifyBaseLogger } from 'fastify'
import type { StreamKey } from './stream.ts'

/** One holder's claim on its key, as its own process hands it to the cluster. */
export interface ClusterClaim {
  readonly key: StreamKey
  /** Begins to end the holder; a second call does nothing. */
  end (reason: 'replaced' | 'evicted'): void
  /** Settles when the holder is gone, and so is everyone it waited for. Never rejects. */
  readonly released: Promise<unknown>
}

export interface ClusterContext {
  /** The log of the Fastify instance that registers the plugin. */
  readonly log: FastifyBaseLogger
  /** How long a newcomer waits for `claim` at the most. Unit: milliseconds. */
  readonly replaceTimeout: number
}

/** The option `cluster`. Its `join` is called once, when the plugin is registered, and awaited. */
export interface ClusterAdapter {
  join (context: ClusterContext): Cluster | Promise<Cluster>
}

/**
 * One process's membership. The registry deduplicates within its process; the cluster knows of the others, and is
 * asked about them alone. No method throws or rejects: where the others cannot be reached, it answers as if there were
 * none, warns once, and makes up for it when they can be reached again.
 */
export interface Cluster {
  /**
   * Makes `claim` the newest of its key, across processes, in one atomic step; the calls of one process count in their
   * order. If the one before it is another process's, that process calls its `end('replaced')`.
   *
   * Resolves when the one before is gone, or its process is; who waits gives up after `replaceTimeout`. A claim that
   * turns out not to be the newest (a message was lost, the store was away) has its `end('replaced')` called, soon.
   */
  claim (claim: ClusterClaim): Promise<unknown> | undefined
  /** Forgets `claim`, which is gone; does nothing if it is no longer the newest of its key. */
  release (claim: ClusterClaim): void
  /** Calls `end('evicted')` of each claim that the others have in a scope; resolves to their number when they are gone. */
  evict (scope: string, tabId?: string): Promise<number>
  /** How many claims the others have in a scope. */
  count (scope: string): Promise<number>
  /** Forgets all claims of this process, which are gone or given up, and frees what `join` took. */
  leave (): Promise<void>
}
