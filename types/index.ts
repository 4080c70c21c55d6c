// The public vocabulary: every type a user meets, and what Fastify gains by registering the plugin.
import type { FastifyRequest } from 'fastify'
import type { SSEPluginOptions } from '@fastify/sse'
import type { ClusterAdapter } from './cluster.ts'

export type * from './cluster.ts'

/**
 * The application's identity for a user or session, such as `user.id` or `[user.id, workspace.id]`. Compared by value:
 * `[1, 'a']` is one key however often it is built, `1`, `1n` and `'1'` are three, the order of properties does not
 * matter. Never take it from the client: whoever can choose a scope key can end the streams in it.
 */
export type ScopeKey = string | number | bigint | boolean | readonly ScopeKey[] | { readonly [property: string]: ScopeKey }

/**
 * Why a stream ended. The reason decides what the client is told:
 *
 * - `'replaced'`: a newer stream took its key. The client gets the farewell event, then a clean end, and stops.
 * - `'evicted'`: the application ended it, see {@link StreamRegistry.evict}, or the scope was full. As `'replaced'`.
 * - `'finished'`: its handler returned, or `stream.close()` was called. A clean end.
 * - `'shutdown'`: the server is closing. The connection is destroyed, so the client comes back, to another server.
 * - `'failed'`: its handler threw. As `'shutdown'`.
 * - `'stalled'`: its client does not take what is sent, see `maxBufferedBytes` and `stallTimeout`. As `'shutdown'`.
 * - `'expired'`: it has lived for `maxAge`. As `'shutdown'`.
 * - `'disconnected'`: the client left, or its connection broke.
 */
export type CloseReason = 'replaced' | 'evicted' | 'finished' | 'shutdown' | 'failed' | 'stalled' | 'expired' | 'disconnected'

/** What owns a stream key. A {@link Stream} is one; so can be anything else of which a tab may have only one. */
export interface Holder {
  /** Begin to end, because of `reason`; called at most once by the registry, and must return at once. */
  close (reason: CloseReason): void
  /** Settles when nothing of the holder runs any more. Only then does its successor start. */
  readonly gone: Promise<unknown>
  /** Whether it has begun to end by itself. When a scope is full, room is made by waiting for such holders first. */
  readonly closing?: boolean
  /** Called when `gone` did not settle within `replaceTimeout`: free what can be freed; the successor goes ahead. */
  destroy? (): void
}

/** A scope key, a tab id and a name, made one by {@link streamKey}. Two are equal when `scope` and `slot` are. */
export interface StreamKey {
  readonly scopeKey: ScopeKey
  readonly tabId: string | undefined
  readonly name: string | undefined
  /** The scope key in canonical form. */
  readonly scope: string
  /** The tab id and the name in canonical form; unique where there is no tab id. */
  readonly slot: string
}

/** One event, in the terms of the HTML specification's event stream format. */
export interface StreamMessage {
  /** The event's type. Without it the browser dispatches `message`. Must not contain CR or LF. */
  event?: string
  /** The last event id, which the client sends back as `Last-Event-ID`. Must not contain control characters, such as CR, LF or NUL. */
  id?: string
  /**
   * The payload. A string goes out as it is, one `data:` line for each of its lines; anything else goes through the
   * serializer of `@fastify/sse`, which is `JSON.stringify` unless the application chose another.
   */
  data?: unknown
  /** How long the client waits before it reconnects. Unit: milliseconds, a whole number from 0. */
  retry?: number
}

/** One live SSE response of one browser tab. */
export interface Stream extends Holder {
  /** A random UUID. */
  readonly id: string
  readonly scopeKey: ScopeKey
  /** `undefined` if the client sent none: the stream is then never replaced. */
  readonly tabId: string | undefined
  /** Which of the page's streams this is; `undefined` unless `startStream` was given a name. */
  readonly name: string | undefined
  /** When the head was sent. Unit: milliseconds since the epoch. */
  readonly openedAt: number
  /**
   * Aborts the moment the stream begins to end, whatever the reason. Hand it to everything that the handler waits for.
   * Its `reason` is a `FST_ERR_OCTA_STAR_STREAM_CLOSED` whose `reason` is the {@link CloseReason}.
   */
  readonly signal: AbortSignal
  /**
   * Resolves to the reason when the response is over and every `onClose` callback has settled. The handler itself is
   * not waited for, so that it may await this.
   */
  readonly closed: Promise<CloseReason>
  /**
   * Sends one event, or a string as the data of one. Resolves when the connection can take more; whoever does not wait
   * loses the sight of a slow client, whose stream ends as `'stalled'` past `maxBufferedBytes`.
   *
   * Rejects with `FST_ERR_OCTA_STAR_STREAM_CLOSED` once the stream has begun to end: this ends a loop that does not
   * look at its signal, and goes unnoticed where nobody awaits it. Rejects with `FST_ERR_OCTA_STAR_EVENT` when a field
   * could not be sent as it is.
   *
   * @example await stream.send({ event: 'order', data: order })
   */
  send (message: string | StreamMessage): Promise<void>
  /**
   * Registers a cleanup, to be called once when the stream begins to end (at once, if it has). A successor waits until
   * the promise it returns has settled.
   *
   * @example stream.onClose(async () => subscription.unsubscribe())
   */
  onClose (callback: (reason: CloseReason) => unknown): void
  /**
   * Registers a last word, to be called when a newer stream takes the key, before the farewell event. `send` works
   * until it settles, for `closeGrace` at the most.
   *
   * @example stream.onReplaced(() => stream.send({ event: 'paused', data: 'This page went on in a newer stream.' }))
   */
  onReplaced (callback: () => unknown): void
  /** Leaves the stream open when its handler returns. Without it, that is when the stream ends, as `'finished'`. */
  keepAlive (): void
  /** Begins to end the stream. Default: `'finished'`. To wait for the end, await `closed`. */
  close (reason?: CloseReason): void
}

/** Who holds which key, in the context in which the plugin was registered. `for (const stream of registry)` lists all. */
export interface StreamRegistry<H extends Holder = Stream> extends Iterable<H> {
  /** The holders of this process that are registered and not yet gone. */
  readonly size: number
  /** The holder of a key. */
  get (scopeKey: ScopeKey, tabId: string, name?: string): H | undefined
  /**
   * Ends the streams of a tab, or of a whole scope where `tabId` is left out, as `'evicted'`. Resolves to their number
   * when they are gone, within `replaceTimeout`.
   *
   * @example await fastify.streamRegistry.evict(request.user.id) // on logout
   */
  evict (scopeKey: ScopeKey, tabId?: string): Promise<number>
  /** How many a scope has, those that wait for their predecessor included, in all processes of the cluster. */
  count (scopeKey: ScopeKey): Promise<number>
  /**
   * Makes `holder` the holder of `key`: ends the present one and waits until it is gone, within `replaceTimeout`.
   * Resolves to `true`, or to `false` if a newer one took the key in the meantime. Forgets `holder` when it is gone.
   *
   * @throws FST_ERR_OCTA_STAR_LIMIT when the scope is full and `onLimit` is `'reject'`
   * @example
   * const holder = { close: () => socket.close(), gone: once(socket, 'close') }
   * await registry.replaceAndRegister(streamKey(user.id, tabId, 'socket'), holder)
   */
  replaceAndRegister (key: StreamKey, holder: H): Promise<boolean>
}

export interface StartStreamOptions {
  /**
   * Which of one page's streams this is, where a page has several at once: streams of different names do not replace
   * each other. A string that is not empty.
   */
  name?: string
}

export interface OctaStarStreamsOptions {
  /**
   * The Datastar signal that carries the tab id, read from the `datastar` query parameter or else from a JSON body.
   * A string that is not empty. Default: `'tabId'`.
   */
  signal?: string
  /**
   * Reads the tab id instead of `signal`, for a client that is not Datastar. Called before validation. `undefined`
   * means that there is none; anything else must be a string of 1 to 128 characters. Default: none.
   *
   * @example tabId: (request) => request.query.tab
   */
  tabId?: (request: FastifyRequest) => string | undefined
  /**
   * How long a stream may wait for its predecessor to be gone. Past it the predecessor's connection is destroyed, a
   * warning names its route, and the newcomer goes ahead. Unit: milliseconds, 1 to 2147483647. Default: `5000`.
   */
  replaceTimeout?: number
  /**
   * How long a client may take to accept the clean end of its stream, and how long `onReplaced` may take, before the
   * connection is destroyed. Unit: milliseconds, 1 to 2147483647. Default: `1000`.
   */
  closeGrace?: number
  /**
   * How long a stream may live. Then its connection is destroyed, as at a shutdown, and its client comes back: it is
   * authorised anew, and perhaps to another server. Each stream's own end is drawn from the last tenth of that time.
   * Unit: milliseconds, 1 to 2147483647. Default: `Infinity`.
   */
  maxAge?: number
  /**
   * How much may wait in the server's memory for a client that reads more slowly than it is sent to. A send past that
   * ends the stream as `'stalled'`: the connection is destroyed, and the client comes back. Who awaits `send` never
   * gets there. An event that nothing waits before is always taken, and so is what Node buffers itself, 16 to 64 KiB.
   * Unit: bytes (of text: characters), a whole number from 1. Default: `1048576`.
   */
  maxBufferedBytes?: number
  /**
   * How long a client may take nothing while something waits for it. Then its stream ends as `'stalled'`. Over HTTP/2,
   * where no more can be seen: how long it may not have taken all. Unit: milliseconds, 1 to 2147483647. Default: `Infinity`.
   */
  stallTimeout?: number
  /**
   * After how much quiet TCP asks whether the client's machine is still there: ten probes a second apart, and if none is
   * answered the stream ends as `'disconnected'`. Not seen: a peer behind a proxy, whose kernel answers for itself; and
   * a dead one to which something was sent that it has not acknowledged, which TCP repeats for a quarter of an hour.
   * Unit: milliseconds, 1000 to 2147483647, in whole seconds; `0` asks never. Default: `10000`.
   */
  deadPeerProbe?: number
  /**
   * How many streams one scope may have at once, those that wait and those that are still being cleaned up included.
   * Unit: streams, a whole number from 1. Default: `Infinity`.
   */
  maxStreamsPerScope?: number
  /**
   * What happens to a stream beyond `maxStreamsPerScope`. `'replace-oldest'` evicts the scope's oldest stream for it;
   * `'reject'` answers it 429 with `Retry-After`. Default: `'replace-oldest'`.
   */
  onLimit?: 'replace-oldest' | 'reject'
  /**
   * Where to serve `octa-star-streams/browser`, which gives a page its tab id, to pages without a bundler.
   * A path that begins with `/`. Default: none, it is not served.
   *
   * @example browser: '/octa-star/tab-id.js'
   */
  browser?: string
  /**
   * What makes several processes one, as `redisCluster({ redis })` of `octa-star-streams/redis`. Default: none, each
   * process deduplicates on its own.
   */
  cluster?: ClusterAdapter
  /** Options for `@fastify/sse`, which the plugin registers unless the application has. Default: none. */
  sse?: SSEPluginOptions
}

declare module 'fastify' {
  interface FastifyReply {
    /**
     * Starts this response's stream: ends the stream that the same tab has, waits until it is gone, sends the head.
     * Once to a request, on a route with the option `sse`.
     *
     * Rejects with `FST_ERR_OCTA_STAR_STREAM_CLOSED` when the client leaves or a newer stream of the tab comes while
     * this one waits; let it pass through the handler. Bad use and bad input: see the README's table of errors.
     */
    startStream (scopeKey: ScopeKey, options?: StartStreamOptions): Promise<Stream>
  }

  interface FastifyInstance {
    streamRegistry: StreamRegistry
  }
}
