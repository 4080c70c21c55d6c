// The words for a stream: the key, the holder, the events, and the reasons for the end.
import type { Readable } from 'node:stream'

/**
 * The application's identity for a user or session, for example `user.id` or `[user.id, workspace.id]`. Scope keys are compared
 * by value: two arrays `[1, 'a']` are the same key, `1`, `1n` and `'1'` are three keys, and the order of an object's
 * properties does not matter.
 *
 * Never take a scope key from the client. Whoever chooses a scope key can end the streams in that scope.
 *
 * @example const scopeKey: ScopeKey = [user.id, workspace.id]
 */
export type ScopeKey = string | number | bigint | boolean | readonly ScopeKey[] | { readonly [property: string]: ScopeKey }

/**
 * What the methods take: a {@link ScopeKey}, or a value of an `interface` whose properties are scope keys. TypeScript does not take an
 * interface for an object with any property: https://github.com/microsoft/TypeScript/issues/15300
 */
export type ScopeKeyLike<T> = ScopeKey | (T & Plain<T>)

type Plain<T> = T extends ScopeKey
  ? T
  : T extends (...args: never) => unknown ? never : T extends object ? { readonly [Property in keyof T]: Plain<T[Property]> } : never

/**
 * Why a stream ended. The reason decides how the response ends, and so whether the client comes back:
 *
 * - `'replaced'`: a newer stream took the key. The client gets the farewell event and a clean end, and stops.
 * - `'evicted'`: the application called {@link StreamRegistry.evict}, or the scope was full. Ends like `'replaced'`.
 * - `'finished'`: the handler returned, or `stream.close()` was called. The response ends cleanly.
 * - `'shutdown'`: the server is closing. The connection is destroyed, and the client reconnects to another server.
 * - `'failed'`: the handler threw, or Fastify's `handlerTimeout` was over while the stream waited. Ends like `'shutdown'`.
 * - `'stalled'`: the client did not read what was sent, see `maxBufferedBytes` and `stallTimeout`. Ends like `'shutdown'`.
 * - `'expired'`: the stream reached `maxAge`, or with `stallTimeout: Infinity` sent nothing for the time of Fastify's `connectionTimeout`. Ends
 *   like `'shutdown'`.
 * - `'disconnected'`: the client disconnected.
 */
export type CloseReason = 'replaced' | 'evicted' | 'finished' | 'shutdown' | 'failed' | 'stalled' | 'expired' | 'disconnected'

/**
 * Something that owns a stream key. Every {@link Stream} is a holder. An application can register its own
 * holders, for example WebSockets, with {@link StreamRegistry.replaceAndRegister}.
 */
export interface Holder {
  /** Begin to end because of `reason`, and return at once. The registry calls this at most once for each key. */
  close (reason: CloseReason): void
  /** Settles when nothing of the holder runs any more. The successor starts only then. */
  readonly gone: Promise<unknown>
  /**
   * `true` once the holder has started to end by itself. A full scope waits for ending holders first. Not seen if the property is
   * added after the registration.
   */
  readonly closing?: boolean | undefined
  /**
   * Called if `gone` does not settle within `replaceTimeout` after the end began, or before the server's close times out.
   * Free what can be freed: the successor starts now.
   */
  destroy?: (() => void) | undefined
}

/** A scope key, a tab id and a name, combined by {@link streamKey}. Two keys are equal if `scope` and `slot` are equal. */
export interface StreamKey {
  readonly scopeKey: ScopeKey
  readonly tabId: string | undefined
  readonly name: string | undefined
  /** The scope key in canonical form. */
  readonly scope: string
  /** The tab id and the name in canonical form. Unique for each key without a tab id. */
  readonly slot: string
}

/** An event, with the fields of the HTML standard's event stream format. */
export interface StreamMessage {
  /** The event's type. If missing, browsers dispatch a `message` event. A string without CR or LF. */
  event?: string | undefined
  /** The event id, which the client sends back as `Last-Event-ID`. A number, or a string of printable ASCII characters and tabs. */
  id?: string | number | undefined
  /**
   * The payload. A string is sent unchanged, with a `data:` line for each line of the string. Any other value is serialised by
   * the serializer of `@fastify/sse`, which is `JSON.stringify` by default.
   */
  data?: unknown
  /** How long the client waits before reconnecting. Unit: milliseconds, a whole number from 0 to 2147483647. */
  retry?: number | undefined
}

/** What {@link StreamRegistry.list} tells of a stream. */
export interface StreamInfo {
  /** A random UUID, `Stream.id`. */
  readonly id: string
  /** `undefined` if the client sent no tab id. */
  readonly tabId: string | undefined
  /** `undefined` if the stream has no name. */
  readonly name: string | undefined
  /** When the response's head was sent. Unit: milliseconds since the epoch, by the clock of the stream's process. */
  readonly openedAt: number
}

/** The streams that {@link StreamRegistry.to} names. */
export interface MessageTarget {
  /** Resolves to the number of streams that took the message. Rejects as {@link StreamRegistry.send} does. */
  send (message: string | StreamMessage): Promise<number>
}

/** A source of messages for `sendAll`. A Readable must be in object mode, or yield strings. */
export type MessageSource = AsyncIterable<string | StreamMessage> | Iterable<string | StreamMessage> | Readable

/** The options of `sendAll`. */
export interface SendAllOptions {
  /**
   * What happens while the client does not keep up. `'wait'` takes no further message from the source. Use `'wait'` for a source that
   * can wait, such as a generator, a database cursor or a file. `'end'` takes every message at once, and the stream ends as `'stalled'`
   * when more than `maxBufferedBytes` wait for the client. Use `'end'` for a source that cannot wait, such as `events.on`: messages
   * that nobody takes would queue in the source without a limit. Default: `'wait'`.
   */
  onSlowClient?: 'wait' | 'end' | undefined
}

/**
 * A live SSE response for a browser tab.
 *
 * @example
 * fastify.get('/orders', { sse: 'only' }, async (request, reply) => {
 *   const stream = await reply.startStream(request.user.id)
 *   for await (const [order] of on(orders, 'order', { signal: stream.signal })) stream.send({ event: 'order', data: order })
 * })
 */
export interface Stream extends Holder {
  /** A random UUID. */
  readonly id: string
  readonly scopeKey: ScopeKey
  /** `undefined` if the client sent no tab id. The stream is then never replaced. */
  readonly tabId: string | undefined
  /** The name that was passed to `startStream`, or `undefined`. */
  readonly name: string | undefined
  /**
   * The id of the last event that the client received before reconnecting, from the header `Last-Event-ID`. `undefined` if
   * the client sent none, or sent the id of a farewell.
   */
  readonly lastEventId: string | undefined
  /** When the response's head was sent. Unit: milliseconds since the epoch. `0` before. */
  readonly openedAt: number
  /**
   * Aborts as soon as the stream begins to end, whatever the reason. Pass the signal to everything the handler waits for.
   * `signal.reason` is an `FST_ERR_OCTA_STAR_STREAM_CLOSED` error whose `reason` is the {@link CloseReason}.
   *
   * @example for await (const [order] of on(orders, 'order', { signal: stream.signal })) stream.send({ data: order })
   */
  readonly signal: AbortSignal
  /**
   * Resolves to the reason when the response is over and every `onClose` callback has settled. Does not wait for the
   * handler, so the handler may await `closed`. Rejects with `FST_ERR_OCTA_STAR_CYCLE` if `closed` is read in an `onClose`
   * callback before the callback's first `await`.
   *
   * @example const reason = await stream.closed
   */
  readonly closed: Promise<CloseReason>
  /**
   * Sends an event. A string is sent as the event's data. Resolves when the connection can take more.
   *
   * Await `send` if the source of the messages can wait, such as a database cursor. Do not await `send` if the source cannot wait, such
   * as an emitter: a slow client's stream then ends as `'stalled'` once more than `maxBufferedBytes` wait. If you await `send` in a
   * loop over `events.on`, the events of a slow client queue in the iterator without a limit, until `stallTimeout`.
   *
   * Rejects with `FST_ERR_OCTA_STAR_STREAM_CLOSED` once the stream has begun to end, which also stops a loop that does not
   * use the signal. A rejection that nobody awaits does not end the process. Rejects with `FST_ERR_OCTA_STAR_MESSAGE` if
   * `message` is not a message, and with `FST_ERR_OCTA_STAR_EVENT` if a field cannot be sent.
   *
   * @example await stream.send({ event: 'order', data: order })
   */
  send (message: string | StreamMessage): Promise<void>
  /**
   * Sends every message of a source, and awaits back-pressure between two messages, see {@link SendAllOptions}. Resolves to the number
   * of messages when the source is done and the connection can take more. When the stream ends, the source is closed at once (`destroy()` for a Readable, `return()` for
   * iterators), even if the source is quiet, and `sendAll` rejects with `FST_ERR_OCTA_STAR_STREAM_CLOSED`. Rejects with
   * `FST_ERR_OCTA_STAR_SOURCE` if `source` is not a source, and with `FST_ERR_OCTA_STAR_SEND_OPTION` if an option is not valid.
   *
   * @example await stream.sendAll(readOrders())
   */
  sendAll (source: MessageSource, options?: SendAllOptions): Promise<number>
  /**
   * Registers a cleanup. The callback runs once, when the stream begins to end, or at once if the stream is already
   * ending. The tab's next stream starts only after the returned promise has settled. An error in the
   * callback is logged.
   *
   * @throws FST_ERR_OCTA_STAR_CALLBACK if `callback` is not a function
   * @example stream.onClose(async () => subscription.unsubscribe())
   */
  onClose (callback: (reason: CloseReason) => unknown): void
  /**
   * Registers a callback that may send a last event. The callback runs when a newer stream takes the key, before the farewell
   * event. `send` works until the callback settles, for at most `closeGrace`. An error in the callback is logged, unless the
   * error is an abort error.
   *
   * @throws FST_ERR_OCTA_STAR_CALLBACK if `callback` is not a function
   * @example stream.onReplaced(() => stream.send({ event: 'paused', data: 'This page continues in a newer stream.' }))
   */
  onReplaced (callback: () => unknown): void
  /** Keeps the stream open after the handler has returned. Otherwise the stream then ends as `'finished'`. */
  keepAlive (): void
  /** Begins to end the stream. Await `closed` to wait for the end. Default: `'finished'`. */
  close (reason?: CloseReason): void
}
