// The contract of the option `cluster`: what an adapter that connects several processes must do. `octa-star-streams/redis` is an adapter.
// `octa-star-streams/conformance` tests each rule. How to write an adapter: docs/adapters.md.
import type { FastifyBaseLogger } from 'fastify'
import type { StreamInfo, StreamKey } from './stream.ts'

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

/** A message on the way to streams of other processes. Every field survives `JSON.stringify`. */
export interface ClusterMessage {
  /** The scope whose streams get the message, `StreamKey.scope`. `undefined`: the streams of all scopes. */
  readonly scope?: string | undefined
  /** If given, only the streams of this tab get the message. */
  readonly tabId?: string | undefined
  /** If given, only the streams with this name get the message. */
  readonly name?: string | undefined
  /** If given, the streams of this tab do not get the message. */
  readonly except?: string | undefined
  /** The event as the clients receive the event: text in the event stream format. */
  readonly text: string
  /** The event's reconnection time. Unit: milliseconds. */
  readonly retry?: number | undefined
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
  readonly namespace?: string | undefined
  /**
   * Sends `message` to the streams of this process. Returns the number of streams that took the message. Call it once for each
   * message of another process, in the order in which that process has sent the messages to the scope.
   */
  deliver (message: ClusterMessage): number
  /** Returns this process's open streams in `scope`. */
  list (scope: string): StreamInfo[]
  /** The plugin's option `offlineDelay`. Unit: milliseconds. */
  readonly offlineDelay: number
  /** Whether this process listens to the events of scopes. Otherwise `markOnline` and `markOffline` are not called, and `wentOffline` does nothing. */
  observesScopes (): boolean
  /**
   * Reports that `scope` is offline. Call it in one process that observes scopes, if a process has ended without `markOffline`, if the scope was marked
   * as online, and if no process has had a claim in the scope for `offlineDelay`. {@link Cluster.markOffline} says when to call this method after an outage.
   */
  wentOffline (scope: string): void
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
  /** The limit for the text of a message. Unit: bytes of UTF-8. The caller of `send` keeps this limit. */
  readonly maxMessageBytes: number
  /**
   * Passes `message` to `deliver` of every other process that has claims in `message.scope`, and of no other process. If the
   * message has no scope, passes it to every other process. A process that dies or loses the connection may miss the message. No
   * process gets the message twice. Resolves to the number of streams that took the message, as far as the processes
   * have told within a bounded time, or to 0 if the store is unreachable.
   */
  send (message: ClusterMessage): Promise<number>
  /** Resolves to the open streams that other processes have in `scope`, as far as the processes have told within a bounded time. */
  list (scope: string): Promise<StreamInfo[]>
  /**
   * Marks `scope` as online, because a stream of this process has opened there. Resolves to `true` if the scope was not marked.
   * Resolves to `true` if the store is unreachable.
   *
   * Until `markOffline`, call `onlineAgain` each time the store turns out to have no mark of the scope, after a loss of data, or
   * because another process took this process for dead and removed the mark. In between, another process may have reported the
   * scope as offline.
   */
  markOnline (scope: string, onlineAgain: () => void): Promise<boolean>
  /**
   * Called when this process has had no stream in `scope` for `offlineDelay`. If no process has a claim in the scope, and each
   * process that has marked the scope has called `markOffline` since or has ended, removes the mark, and resolves to `true`. Resolves
   * to `true` too if the mark of this process is missing, because the store has lost the mark: otherwise nobody would report the scope.
   * Resolves to `false` if the scope was not marked by this process, and is not marked.
   *
   * Resolves to `false` if the store is unreachable, because another process may have a stream in the scope. As soon as the store is
   * reachable again, removes the mark on the same conditions, and calls {@link ClusterContext.wentOffline} instead, unless
   * `markOnline` was called in between.
   */
  markOffline (scope: string): Promise<boolean>
  /**
   * Removes all claims of this process from the cluster, and frees what `join` allocated. Called once, when the server has
   * closed and every holder is gone or given up.
   */
  leave (): Promise<void>
}
