// The public types of the plugin: the registry, the options, and what Fastify gains when the plugin is registered.
import type { FastifyRequest, RouteOptions } from 'fastify'
import type { SSEPluginOptions } from '@fastify/sse'
import type { ClusterAdapter } from './cluster.ts'
import type { Holder, MessageTarget, ScopeKeyLike, Stream, StreamInfo, StreamKey, StreamMessage } from './stream.ts'

export type * from './cluster.ts'
export type * from './stream.ts'

/**
 * The holders of all stream keys, in the Fastify context in which the plugin was registered. Iterate over the registry to
 * get every open stream of this process, and every holder that was registered with `replaceAndRegister`. A loop visits the holders
 * that were there when the loop began, and leaves out the holders that are gone before their turn.
 *
 * @example for (const holder of fastify.streamRegistry) if ('send' in holder) holder.send('hello')
 */
export interface StreamRegistry extends Iterable<Stream | Holder> {
  /** The number of holders in this process that are registered and not gone yet. */
  readonly size: number
  /**
   * The number of holders in this process that were not gone `replaceTimeout` after their end began. Nothing waits for them
   * or counts them any longer. Falls again when a given-up holder is gone after all.
   */
  readonly givenUp: number
  /**
   * Returns the holder of a key in this process, or `undefined`.
   *
   * @throws FST_ERR_OCTA_STAR_SCOPE_KEY, FST_ERR_OCTA_STAR_NAME
   * @example fastify.streamRegistry.get(user.id, tabId)?.close('finished')
   */
  get<T> (scopeKey: ScopeKeyLike<T>, tabId: string, name?: string): Stream | Holder | undefined
  /**
   * Ends all streams of a scope as `'evicted'`, or only the streams of a tab if `tabId` is not `undefined`. Resolves to the number
   * of ended streams when these streams are gone, in all processes of the cluster. Rejects with `FST_ERR_OCTA_STAR_SCOPE_KEY`,
   * with `FST_ERR_OCTA_STAR_TAB_ID` if `tabId` is not a string, and with `FST_ERR_OCTA_STAR_EVICT` if the cluster cannot confirm
   * within `replaceTimeout` that the streams in other processes have ended. Then the streams of this process have ended all the
   * same, and you can call `evict` again.
   *
   * @example await fastify.streamRegistry.evict(request.user.id) // on logout
   */
  evict<T> (scopeKey: ScopeKeyLike<T>, tabId?: string): Promise<number>
  /**
   * Resolves to the number of streams of a scope in all processes of the cluster. Streams that wait for their predecessor
   * count too. Rejects with `FST_ERR_OCTA_STAR_SCOPE_KEY`.
   *
   * @example const tabs = await fastify.streamRegistry.count(request.user.id)
   */
  count<T> (scopeKey: ScopeKeyLike<T>): Promise<number>
  /**
   * Sends an event to every stream of a scope, in all processes of the cluster, or to the streams that `options` name.
   * Resolves to the number of streams that took the event: `0` if there are none. The event is formatted once, with the serializer of
   * the option `sse`, or else with `JSON.stringify`. A stream that is not open yet or has begun to end gets nothing. Does not
   * wait for slow clients: the stream of a client that does not read ends as `'stalled'` by its own limits.
   *
   * What one process sends to a scope arrives in that order at each stream. An event that is on the way to a broken
   * connection is lost: send the state again when a client reconnects, or resume at `stream.lastEventId`. If the cluster's
   * store is unreachable, the event reaches the streams of this process only.
   *
   * Rejects with `FST_ERR_OCTA_STAR_MESSAGE` or `FST_ERR_OCTA_STAR_EVENT` like `stream.send`, with
   * `FST_ERR_OCTA_STAR_SEND_OPTION` if an option is not valid, and with `FST_ERR_OCTA_STAR_TOO_LARGE` if
   * the event is too large for the cluster, before anything is sent.
   *
   * @example
   * await fastify.streamRegistry.send(user.id, { event: 'order', data: order })
   * await fastify.streamRegistry.send(user.id, { event: 'saved' }, { tabId: request.tabId })
   */
  send<T> (scopeKey: ScopeKeyLike<T>, message: string | StreamMessage, options?: SendOptions): Promise<number>
  /**
   * Sends an event to every stream of every scope, in all processes of the cluster. Otherwise like `send`. Two events that are
   * sent with `broadcast` arrive in that order; an event sent with `broadcast` and an event sent with `send` may change places.
   * Rejects with `FST_ERR_OCTA_STAR_SEND_OPTION` if options are passed, because a tab id belongs to a scope.
   *
   * @example await fastify.streamRegistry.broadcast({ event: 'stock', data: stock })
   */
  broadcast (message: string | StreamMessage): Promise<number>
  /**
   * Names streams of a scope for later messages. `to(scopeKey, options).send(message)` is `send(scopeKey, message, options)`.
   * Throws the errors of `send` for the scope key and the options.
   *
   * @example await datastar(fastify.streamRegistry.to(user.id, { except: request.tabId })).patchElements(row)
   */
  to<T> (scopeKey: ScopeKeyLike<T>, options?: SendOptions): MessageTarget
  /**
   * Returns this process's open streams of a scope, oldest first.
   *
   * @throws FST_ERR_OCTA_STAR_SCOPE_KEY
   * @example for (const stream of fastify.streamRegistry.streams(user.id)) stream.close()
   */
  streams<T> (scopeKey: ScopeKeyLike<T>): Stream[]
  /**
   * Resolves to what is known of a scope's open streams in all processes of the cluster. Leaves out the streams of processes that
   * do not answer. Rejects with `FST_ERR_OCTA_STAR_SCOPE_KEY`.
   *
   * @example const tabs = await fastify.streamRegistry.list(user.id)
   */
  list<T> (scopeKey: ScopeKeyLike<T>): Promise<StreamInfo[]>
  /**
   * Makes `holder` the holder of `key`. Ends the present holder and waits until that holder is gone, for at most
   * `replaceTimeout`. Resolves to `true`, or to `false` if `holder` began to end first, for example because a
   * newer holder took the key. The registry forgets `holder` when `holder.gone` settles.
   *
   * Registering the present holder again changes nothing. Rejects with `FST_ERR_OCTA_STAR_LIMIT` if the scope is full and
   * `onLimit` is `'reject'`, with `FST_ERR_OCTA_STAR_STREAM_KEY` if `key` was not made by `streamKey`, and with
   * `FST_ERR_OCTA_STAR_HOLDER` if `holder` has no `close` or no `gone`.
   *
   * @example
   * const holder = { close: () => socket.close(), gone: once(socket, 'close') }
   * await fastify.streamRegistry.replaceAndRegister(streamKey(user.id, tabId, 'socket'), holder)
   */
  replaceAndRegister (key: StreamKey, holder: Holder): Promise<boolean>
}

/** Names some streams of a scope. */
export interface SendOptions {
  /**
   * Only the streams of this tab. A `tabId` that is given as `undefined` names no stream, so that a request without a tab id does
   * not reach every tab. Default: the streams of all tabs.
   */
  tabId?: string | undefined
  /** Only the streams with this name. Default: all streams, with and without a name. */
  name?: string | undefined
  /** Not the streams of this tab. Default: no stream is left out. */
  except?: string | undefined
}

export interface StartStreamOptions {
  /**
   * Names this stream if a page opens several. Streams with different names do not replace each other. A string that is
   * not empty. Default: no name.
   */
  name?: string | undefined
}

export interface OctaStarStreamsOptions {
  /**
   * The Datastar signal that carries the tab id. The plugin reads the signal from the query parameter `datastar` of a
   * GET, HEAD or DELETE, and from the JSON body of any other request, or of a DELETE without that parameter. A string that is not
   * empty. Default: `'tabId'`.
   */
  signal?: string | undefined
  /**
   * Reads the tab id from a request if the client is not Datastar, and is used instead of `signal`. On routes with `sse` the
   * plugin calls the function once, before validation. On other routes each read of `request.tabId` calls the function. Return
   * a string of 1 to 128 characters, or `undefined` if the request has no tab id. Default: none.
   *
   * @example fastify.register(octaStarStreams, { tabId: request => request.query.tab })
   */
  tabId?: ((request: UntypedRequest) => string | undefined) | undefined
  /**
   * How long a new stream waits for the predecessor to be gone. After that the predecessor's connection is destroyed, a
   * warning names the predecessor's route, and the new stream starts. Unit: milliseconds, 1 to 2147483647. Default: `5000`.
   */
  replaceTimeout?: number | undefined
  /**
   * How long a client may take to read the clean end of its stream, and how long `onReplaced` callbacks may take, before
   * the connection is destroyed. Unit: milliseconds, 1 to 2147483647. Default: `1000`.
   */
  closeGrace?: number | undefined
  /**
   * The maximum lifetime of a stream. After that the connection is destroyed, and the client reconnects and is authorised
   * again. Randomised for each stream between 90 % and 100 % of this value. Unit: milliseconds, 1 to 2147483647, or
   * `Infinity`. Default: `Infinity`.
   */
  maxAge?: number | undefined
  /**
   * The amount of data queued for a slow client before the stream ends as `'stalled'`. Never reached if you await `send`.
   * An event is always accepted while nothing is queued, and Node buffers another 16 to 64 KiB. Unit: bytes (characters
   * for text), a whole number from 1, or `Infinity`. Default: `1048576`.
   */
  maxBufferedBytes?: number | undefined
  /**
   * How long a client may read nothing while data is queued before the stream ends as `'stalled'`: at least this long, and at most
   * three times as long. Data is queued once the kernel's buffers are full. A client that reads slowly, and a client that has read
   * everything, keep their streams. Unit: milliseconds, 1 to 2147483647, or `Infinity`.
   * Default: `30000`.
   */
  stallTimeout?: number | undefined
  /**
   * The idle time before TCP keepalive probing starts: ten probes, a second apart. If no probe is answered, the stream
   * ends as `'disconnected'`. Probing does not detect a dead peer behind a proxy, nor a peer that has not acknowledged
   * data: TCP retransmits that data for about 15 minutes. Unit: milliseconds, 1000 to 2147483647. The operating system
   * counts whole seconds. `0` turns probing off. Default: `10000`.
   */
  deadPeerProbe?: number | undefined
  /**
   * The maximum number of streams in a scope, in each process. Streams that wait or clean up count too. Unit: streams, a whole number
   * from 1, or `Infinity`. Default: `Infinity`.
   */
  maxStreamsPerScope?: number | undefined
  /**
   * What happens to a new stream in a full scope. `'replace-oldest'` evicts the scope's oldest stream. `'reject'` answers
   * 429 with a `Retry-After` header, at which an `EventSource` stops for good: the page must open a new one.
   * Default: `'replace-oldest'`.
   */
  onLimit?: 'replace-oldest' | 'reject' | undefined
  /**
   * How long a scope must be without a stream before the event `octa-star:scope:offline`, so that a navigation or a short
   * disconnect is not an absence. Unit: milliseconds, 1 to 2147483647. Default: `5000`.
   */
  offlineDelay?: number | undefined
  /**
   * The path at which the plugin serves `octa-star-streams/browser`, the module that gives a page a tab id, to pages
   * without a bundler. A path that begins with `/`. Default: none, and the module is not served.
   *
   * @example fastify.register(octaStarStreams, { browser: '/octa-star/tab-id.js' })
   */
  browser?: string | undefined
  /**
   * Connects several processes, so that a tab has a single stream in all of the processes. Default: none, and each
   * process deduplicates only the streams that it serves.
   *
   * @example fastify.register(octaStarStreams, { cluster: redisCluster({ redis }) })
   */
  cluster?: ClusterAdapter | undefined
  /** Options for `@fastify/sse`, if the application has not registered `@fastify/sse` itself. Default: none. */
  sse?: SSEPluginOptions | undefined
}

/** A request to any route, whose query, parameters and body the application knows and the plugin does not. */
export type UntypedRequest = FastifyRequest & { query: any, params: any, body: any }

declare module 'fastify' {
  interface FastifyReply {
    /**
     * Starts the stream of this response: ends the stream that the same tab has, waits until that stream is gone, and sends
     * the head. Call it once per request, on a route declared with `sse`.
     *
     * Rejects with `FST_ERR_OCTA_STAR_STREAM_CLOSED` if the stream ends before the start, for example because the client
     * disconnects or the tab opens a newer stream. Do not catch that error. docs/errors.md lists every code.
     *
     * @example
     * fastify.get('/orders', { sse: 'only' }, async (request, reply) => {
     *   const stream = await reply.startStream(request.user.id)
     *   await stream.send('hello')
     * })
     */
    startStream<T> (scopeKey: ScopeKeyLike<T>, options?: StartStreamOptions): Promise<Stream>
  }

  interface FastifyContextConfig {
    /**
     * The route option `sse`, for a framework that passes nothing but `config` to Fastify, such as NestJS. The framework may answer
     * the errors of the handler by itself. In NestJS, write `@RouteConfig({ sse: 'only' })`.
     */
    sse?: RouteOptions['sse']
  }

  interface FastifyRequest {
    /**
     * The id of the browser tab that sent this request, read like `startStream` reads the tab id: from the Datastar signal, or
     * with the option `tabId`. `undefined` if the client sent none. Available on every route, after the body is parsed. If the
     * schema of a route without `sse` removes unknown properties, declare the signal in that schema.
     *
     * @throws FST_ERR_OCTA_STAR_TAB_ID, FST_ERR_OCTA_STAR_SIGNALS with status 400
     * @example await fastify.streamRegistry.send(user.id, { event: 'saved' }, { tabId: request.tabId })
     */
    readonly tabId: string | undefined
  }

  interface FastifyInstance {
    /** The holders of all stream keys in this context. */
    streamRegistry: StreamRegistry
  }
}
