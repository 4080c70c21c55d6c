// The plugin from top to bottom: options, decorators and hooks. Only this file and framework.ts know Fastify.
import type { OutgoingHttpHeaders } from 'node:http'
import { fastifySSE } from '@fastify/sse'
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import fp from 'fastify-plugin'
import { body, etag } from './browser-module.ts'
import { isPresenceObserved } from './diagnostics.ts'
import {
  FST_ERR_OCTA_STAR_ALREADY_REGISTERED, FST_ERR_OCTA_STAR_CROSS_SITE, FST_ERR_OCTA_STAR_DECORATOR, FST_ERR_OCTA_STAR_NAME, FST_ERR_OCTA_STAR_NOT_ACCEPTABLE,
  FST_ERR_OCTA_STAR_NOT_IN_HANDLER, FST_ERR_OCTA_STAR_OPTION, FST_ERR_OCTA_STAR_REPLY_SENT, FST_ERR_OCTA_STAR_ROUTE,
  FST_ERR_OCTA_STAR_STARTED_TWICE, FST_ERR_OCTA_STAR_STATUS, FST_ERR_OCTA_STAR_UNKNOWN_OPTION, isAbort, show, streamClosed
} from './errors.ts'
import { guardRefused, guardReply } from './framework.ts'
import { refuseRequest, StreamSessions } from './http/closing.ts'
import { StreamResponse } from './http/response.ts'
import { checkTabId, readTabId } from './http/signals.ts'
import { TakeoverPayload } from './http/takeover.ts'
import { resolveOptions, type ResolvedOptions } from './options.ts'
import { Registry } from './registry/registry.ts'
import { keyFor, streamKey } from './registry/stream-key.ts'
import { register } from './start.ts'
import { farewellReason, isFarewell } from './stream/ending.ts'
import { LiveStream } from './stream/stream.ts'
import type { CloseReason, Cluster, ClusterAdapter, ClusterContext, OctaStarStreamsOptions, ScopeKey, StartStreamOptions, Stream, StreamKey } from '../types/index.ts'

export type * from '../types/index.ts'
export type { ClusterEvent, KeyFlappingEvent, ScopeEvent, StreamCloseEvent, StreamOpenEvent, StreamReplaceEvent } from './diagnostics.ts'
export { streamKey }

/** The plugin's state for a request to a route with the option `sse`. */
interface StreamRequest {
  /** The method and the route's URL, for messages, for example `GET /stream`. */
  readonly route: string
  readonly response: StreamResponse
  /** `true` from the call of the handler until the handler throws or returns an answer. */
  isHandling: boolean
  /** `true` once `startStream` has answered the request without a stream, or has found the client disconnected. */
  isRefused: boolean
  /** Set by `startStream`. */
  stream: LiveStream | undefined
  /** Why `startStream` has failed. */
  startError: unknown
  /** `true` if a framework such as NestJS runs the handler, and answers the errors of the handler by itself. */
  readonly isFramed: boolean
}

/** The tab id of a request, read before validation can remove unknown properties, or the error that reading the tab id threw. */
interface TabIdOrError {
  readonly tabId: string | undefined
  readonly error: unknown
}

/** A method that Fastify inherits from avvio but does not declare. */
interface Avvio {
  onClose (callback: (instance: unknown, done: () => void) => void): void
}

const kStreamRequest = Symbol('octa-star-streams.request')
const kTabId = Symbol('octa-star-streams.tabId')
type Reply = FastifyReply & { [kStreamRequest]?: StreamRequest }
// A store of sessions may keep the request for as long as the session, so nothing leads from the request to the stream.
type Request = FastifyRequest & { [kTabId]?: TabIdOrError }

async function octaStarStreams (fastify: FastifyInstance, opts: OctaStarStreamsOptions): Promise<void> {
  if (fastify.hasReplyDecorator('startStream')) throw new FST_ERR_OCTA_STAR_ALREADY_REGISTERED()
  if (fastify.hasRequestDecorator('tabId')) throw new FST_ERR_OCTA_STAR_DECORATOR()
  const options = resolveOptions(opts, fastify.log)
  await registerSSE(fastify, options)
  if (options.browser !== undefined) serveBrowserModule(fastify, options.browser)

  const { replaceTimeout } = options
  const registry = new Registry({ ...options, serialize: options.sse?.serializer }, fastify.log)
  if (options.cluster !== undefined) {
    registry.cluster = await joinCluster(options.cluster, {
      log: fastify.log,
      replaceTimeout,
      offlineDelay: options.offlineDelay,
      deliver: message => registry.deliver(message),
      list: scope => registry.listOwn(scope),
      observesScopes: isPresenceObserved,
      wentOffline: scope => registry.wentOffline(scope)
    })
  }
  const state = { isClosing: false, sessions: new StreamSessions() }
  fastify.decorate('streamRegistry', registry)

  async function start (this: Reply, current: StreamRequest, scopeKey: ScopeKey, startOptions: StartStreamOptions = {}): Promise<Stream> {
    const { request, sse, log } = this
    const { route } = current
    if (!current.isHandling) throw new FST_ERR_OCTA_STAR_NOT_IN_HANDLER(route)
    if (current.stream !== undefined || current.isRefused) throw new FST_ERR_OCTA_STAR_STARTED_TWICE(route)
    if (this.sent || this.raw.headersSent) throw new FST_ERR_OCTA_STAR_REPLY_SENT(route)
    if (!hasBody(this.statusCode)) throw new FST_ERR_OCTA_STAR_STATUS(route, this.statusCode)
    if (sse === undefined) throw new FST_ERR_OCTA_STAR_NOT_ACCEPTABLE(request.headers.accept ?? '')
    if (isCrossSite(request)) throw new FST_ERR_OCTA_STAR_CROSS_SITE()

    const key = keyFor(`startStream in ${route}`, scopeKey, request.tabId, nameOf(startOptions))
    const refusal = refuse(this, current)
    if (refusal !== undefined) throw current.isFramed ? await guardRefused(this, current.response, refusal) : streamClosed(refusal)
    checkLimit(this, key)

    const { response } = current
    const lastEventId = request.headers['last-event-id'] as string | undefined
    const stream = current.stream = new LiveStream({
      key, response, options, log, route, sse, lastEventId: lastEventId !== undefined && isFarewell(lastEventId) ? undefined : lastEventId
    })
    // The order of the calls decides who is the newest, whatever hooks and waits come in between.
    const order = registry.nextOrder()

    let isTakenOver = false
    const onTakeover = (headers: OutgoingHttpHeaders) => {
      isTakenOver = true
      // From here on the response belongs to the stream: Fastify must neither time out nor reply.
      this.hijack()
      response.headers = headers
      if (current.isFramed) guardReply(this, response, stream)
      register(registry, { key, stream, response, order, retryAfter })
    }
    if (!this.hasHeader('cache-control')) this.header('cache-control', 'no-cache, no-transform')
    this.header('content-type', 'text/event-stream').send(new TakeoverPayload(this.raw, route, onTakeover))
    const started = stream.start()
    if (started !== undefined) {
      const waiting = limitWait(this, stream)
      const starting = registry.addStarting(key, stream)
      try {
        await started
      } catch (error) {
        if (current.isFramed && !isTakenOver && response.isDisconnected) guardReply(this.hijack(), response, stream)
        throw error
      } finally {
        clearTimeout(waiting)
        registry.deleteStarting(starting)
      }
    }
    // The stream may have opened and ended in the same turn.
    if (stream.closing) throw stream.closedError()
    // A handler that does not await this promise returns first, also through the wrapper of @fastify/sse, and is warned.
    for (let ticks = 0; ticks < 2; ticks++) await undefined
    return stream
  }

  const retryAfter = { 'retry-after': String(Math.ceil(replaceTimeout / 1000)) }

  function checkLimit (reply: Reply, key: StreamKey): void {
    try {
      registry.checkLimit(key)
    } catch (error) {
      // `replaceTimeout` bounds how long an ending stream keeps its place, so `replaceTimeout` is a safe Retry-After.
      reply.headers(retryAfter)
      throw error
    }
  }

  fastify.decorateReply('startStream', function startStream (this: Reply, scopeKey: ScopeKey, options?: StartStreamOptions): Promise<Stream> {
    const { [kStreamRequest]: current, request } = this
    // Thrown at once, so that the request fails even if the handler does not await the promise.
    if (current === undefined) throw new FST_ERR_OCTA_STAR_ROUTE(`${request.method} ${request.routeOptions.url}`)
    const started = start.call(this, current, scopeKey, options)
    // The start may fail before the handler awaits the promise, for example because the request is refused or the client disconnects. An
    // unhandled rejection would end the process.
    started.then(markReceived, error => { current.startError = error })
    return started
  })

  // A getter costs nothing on routes that do not read the property.
  fastify.decorateRequest('tabId', {
    getter (this: Request): string | undefined {
      const known = this[kTabId]
      if (known === undefined) return tabIdOf(this, options)
      if (known.error !== undefined) throw known.error
      return known.tabId
    }
  })

  fastify.addHook('onRoute', (route) => {
    if (route.sse) attach(route, options, state)
  })
  // Avvio runs onClose callbacks in reverse order. A callback that is added after boot runs before Fastify begins to answer 503.
  // https://github.com/fastify/avvio#apponclosefunccontext-done
  fastify.addHook('onReady', async () => {
    (fastify as unknown as Avvio).onClose((_instance, done) => {
      state.isClosing = true
      done()
    })
  })

  // Streams must end in preClose: before onClose, Fastify waits for open responses without a limit.
  // https://fastify.dev/docs/latest/Reference/Hooks/#preclose
  fastify.addHook('preClose', async () => {
    await registry.close(closeTimeout(fastify, options))
    await state.sessions.close(options.closeGrace)
  })
  fastify.addHook('onClose', async () => { await registry.cluster?.leave() })
}

async function registerSSE (fastify: FastifyInstance, options: ResolvedOptions): Promise<void> {
  const { sse } = options
  if (!fastify.hasPlugin('@fastify/sse')) {
    checkConnectionTimeout(fastify, options)
    // Before the hook of @fastify/sse, which reads `route.sse` alone. NestJS passes nothing but `config`.
    fastify.addHook('onRoute', route => { route.sse ??= route.config?.sse })
    await fastify.register(fastifySSE, sse ?? {})
  } else if (sse !== undefined) {
    throw new FST_ERR_OCTA_STAR_OPTION('sse', 'left out where the application registers @fastify/sse itself', 'options that would have no effect')
  }
}

// Registries that share an adapter stay apart, as they do without a cluster. The first registry of each process has no
// namespace, the second registry has the namespace '2', and so on: all processes must register their contexts in the same order.
const namespaces = new WeakMap<ClusterAdapter, Set<number>>()

async function joinCluster (adapter: ClusterAdapter, context: Omit<ClusterContext, 'namespace'>): Promise<Cluster> {
  const taken = namespaces.get(adapter) ?? new Set()
  namespaces.set(adapter, taken)
  let place = 1
  while (taken.has(place)) place++
  taken.add(place)
  let cluster: Cluster
  try {
    cluster = await adapter.join({ ...context, ...place === 1 ? {} : { namespace: String(place) } })
  } catch (error) {
    // The application may register the plugin again, and must then get the same namespace.
    taken.delete(place)
    throw error
  }
  const leave = cluster.leave.bind(cluster)
  cluster.leave = async () => {
    taken.delete(place)
    await leave()
  }
  return cluster
}

function serveBrowserModule (fastify: FastifyInstance, path: string): void {
  fastify.get<{ Querystring: { v?: string } }>(path, (request, reply) => {
    // Under an address with a version, for example ?v=0.1.0, the module never changes.
    reply.header('etag', etag).header('cache-control', request.query.v === undefined ? 'no-cache' : 'public, max-age=31536000, immutable')
    if (request.headers['if-none-match']?.includes(etag)) return reply.code(304).send()
    return reply.type('text/javascript; charset=utf-8').send(body)
  })
}

// Avvio times a preClose hook out after `pluginTimeout` (0: never), and close() then rejects:
// https://fastify.dev/docs/latest/Reference/Server/#plugintimeout
function closeTimeout ({ initialConfig: { pluginTimeout } }: FastifyInstance, { replaceTimeout }: ResolvedOptions): number {
  return pluginTimeout ? Math.min(replaceTimeout, pluginTimeout / 2) : replaceTimeout
}

/**
 * Breaks the connection off when the handler's time is up and the stream still waits for its start. Fastify would reply 503, after which an
 * EventSource never reconnects: https://fastify.dev/docs/latest/Reference/Server/#handlertimeout. Clear the timer when the wait is over.
 */
function limitWait (reply: FastifyReply, stream: LiveStream): NodeJS.Timeout | undefined {
  const { raw, request, elapsedTime, routeOptions: { handlerTimeout = 0 } } = reply
  if (handlerTimeout === 0) return undefined
  // Read only here, because reading creates the signal, and the hijack of the reply silences a signal that exists:
  // https://github.com/fastify/fastify/blob/main/lib/reply.js
  const { signal } = request
  const timeOut = () => {
    // Fastify leaves a hijacked reply alone.
    reply.hijack()
    stream.handlerTimedOut(handlerTimeout)
  }
  // Fastify's own timer runs until the reply is hijacked. That timer may be due a moment before ours, or after the stream has ended. Fastify
  // aborts the signal before it replies.
  const onAbort = () => { if (signal.reason?.code === 'FST_ERR_HANDLER_TIMEOUT') timeOut() }
  signal.addEventListener('abort', onAbort)
  // A store of sessions may keep the request, and nothing may lead from the request to a stream that is gone.
  raw.once('close', () => signal.removeEventListener('abort', onAbort))
  return setTimeout(timeOut, handlerTimeout - elapsedTime)
}

/** Warns if the server's timeout of quiet connections breaks off streams that have nothing to send. */
function checkConnectionTimeout ({ initialConfig, log }: FastifyInstance, { stallTimeout, sse }: ResolvedOptions): void {
  const { connectionTimeout = 0, http2 = false } = initialConfig
  const { heartbeatInterval = 30_000 } = sse ?? {}
  // A watched socket of HTTP/1.1 has `stallTimeout` instead, and sessions of HTTP/2 have `http2SessionTimeout`.
  if (connectionTimeout === 0 || http2 || stallTimeout !== Infinity || (heartbeatInterval > 0 && heartbeatInterval < connectionTimeout)) return
  const cause = heartbeatInterval > 0 ? `is not longer than the heartbeat interval, ${heartbeatInterval} ms` : 'is set, and the heartbeat is off'
  log.warn(
    `octa-star-streams: connectionTimeout, ${connectionTimeout} ms, ${cause}. A stream that sends nothing for that long ends as 'expired', and its client ` +
    'reconnects. Set sse.heartbeatInterval to less than connectionTimeout'
  )
}

/** Answers a request that must not start a stream, and returns the reason. Ends no holder. `undefined` if a stream may start. */
function refuse (reply: Reply, current: StreamRequest): CloseReason | undefined {
  const { method, headers } = reply.request
  const reason = current.response.isDisconnected
    ? 'disconnected'
    : method === 'HEAD' ? 'finished' : farewellReason(headers['last-event-id'] as string | undefined ?? '')
  if (reason === undefined) return undefined
  current.isRefused = true
  // Fastify runs a GET route's handler for HEAD too (exposeHeadRoutes). The response consists of the head alone.
  if (reason === 'finished') reply.type('text/event-stream').send()
  else if (reason !== 'disconnected') reply.code(204).send()
  return reason
}

// A link, a form or an image on a page of another site sends the user's cookies along (unless these are SameSite), but cannot
// read a stream. That request could only replace or evict the user's own streams. https://www.w3.org/TR/fetch-metadata/
function isCrossSite ({ headers }: FastifyRequest): boolean {
  return headers['sec-fetch-site'] === 'cross-site' && (headers['sec-fetch-mode'] === 'navigate' || headers['sec-fetch-mode'] === 'no-cors')
}

/** Whether a response with this status has a body: RFC 9110, sections 6.4.1 and 15.3.6. */
function hasBody (status: number): boolean {
  return status >= 200 && status !== 204 && status !== 205 && status !== 304
}

function nameOf (options: unknown): string | undefined {
  if (typeof options !== 'object' || options === null) throw new FST_ERR_OCTA_STAR_NAME(`${show(options)} in place of the options { name }`)
  for (const option in options) if (option !== 'name') throw new FST_ERR_OCTA_STAR_UNKNOWN_OPTION(`startStream.${option}`, 'name')
  return (options as StartStreamOptions).name
}

/** Adds hooks and a handler wrapper to a route with the option `sse`. Routes without `sse` pay nothing. */
function attach (route: RouteOptions, options: ResolvedOptions, state: { readonly isClosing: boolean, readonly sessions: StreamSessions }): void {
  const { handler } = route
  const isFramed = route.config?.sse !== undefined
  const methods = [route.method].flat()
  // Made once, because every live stream keeps its name.
  const names = Object.fromEntries(methods.map(method => [method, `${method} ${route.url}`]))
  // The query is there from the start. The body, and what the application's function reads, may not be.
  const readsQueryAlone = options.tabId === undefined && methods.every(method => method === 'GET' || method === 'HEAD')

  // While closing, Fastify answers 503 before any hook runs, but after creating the request's logger:
  // https://github.com/fastify/fastify/blob/main/lib/route.js
  const { childLoggerFactory } = route
  route.childLoggerFactory = function (logger, bindings, childOptions, rawRequest) {
    if (state.isClosing && isStreamRequest(route, rawRequest.headers.accept)) refuseRequest(rawRequest)
    return (childLoggerFactory ?? this.childLoggerFactory).call(this, logger, bindings, childOptions, rawRequest)
  }

  // The first hook of the route, so that a disconnect during a later hook is noticed.
  route.onRequest = prepend(route.onRequest, (request: Request, reply: Reply, done: () => void) => {
    state.sessions.add(reply.raw)
    reply[kStreamRequest] = { route: names[request.method]!, response: new StreamResponse(reply.raw), isHandling: false, isRefused: false, stream: undefined, startError: undefined, isFramed }
    if (readsQueryAlone) request[kTabId] = tabIdOrError(request, options)
    done()
  })

  if (!readsQueryAlone) {
    // Before validation, in which Ajv's `removeAdditional` strips unknown properties:
    // https://fastify.dev/docs/latest/Reference/Validation-and-Serialization/#validator-compiler
    route.preValidation = prepend(route.preValidation, (request: Request, _reply: Reply, done: () => void) => {
      request[kTabId] = tabIdOrError(request, options)
      done()
    })
  }

  // The last onSend hook of the route takes the response over, so that Fastify does not have to handle the payload. If another plugin has
  // added a hook behind this hook, Fastify handles the payload.
  const takeOver = (_request: FastifyRequest, reply: Reply, payload: unknown, done: (error: null, payload: unknown) => void) => {
    if (payload instanceof TakeoverPayload && (route.onSend as unknown[]).at(-1) === takeOver) payload.takeOver(reply.getHeaders() as OutgoingHttpHeaders)
    else done(null, payload)
  }
  route.onSend = [...listed(route.onSend), takeOver] as RouteOptions['onSend']

  // @fastify/sse wraps the handler too, inside or outside of this wrapper. After startStream, @fastify/sse neither ends the
  // response nor replies, so the order does not matter.
  route.handler = async function (this: FastifyInstance, request: FastifyRequest, reply: Reply) {
    const current = reply[kStreamRequest]!
    current.isHandling = true
    try {
      const payload = await handler.call(this, request, reply)
      if (current.stream === undefined) {
        if (payload === undefined && !reply.sent) warnOfMistake(reply, current)
        // A handler that returns the reply may start a stream later. A handler that returns nothing is told that the reply was sent.
        current.isHandling = payload === undefined || payload === reply
        return payload
      }
      current.stream.handlerReturned()
    } catch (error) {
      if (!(current.stream?.handlerThrew(error) ?? (current.isRefused && isAbort(error)))) {
        // An error handler must not start a stream: the stream would wait for a handler that is over.
        current.isHandling = false
        throw error
      }
    }
    // If the response is already closed, there is nothing to wait for.
    if (current.response.closed) reply.hijack()
    // A returned reply tells Fastify to wait until the reply is sent. Fastify ignores what a handler returns after a hijack.
    return reply.sent ? undefined : reply
  } as RouteOptions['handler']
}

function tabIdOrError (request: FastifyRequest, options: ResolvedOptions): TabIdOrError {
  try {
    return { tabId: tabIdOf(request, options), error: undefined }
  } catch (error) {
    // Not thrown here, because a route with `sse` may answer some requests without starting a stream.
    return { tabId: undefined, error }
  }
}

function tabIdOf (request: FastifyRequest, { tabId, signal }: ResolvedOptions): string | undefined {
  if (tabId === undefined) return readTabId(request, signal)
  const value: unknown = tabId(request)
  // The promise of an asynchronous function is not a tab id, and a rejection must not end the process.
  if (value instanceof Promise) value.catch(() => {})
  return checkTabId(value)
}

/** Warns if `startStream` has failed because of the application. Otherwise nobody would learn why, if the handler has not awaited the promise. */
function warnOfMistake ({ log }: Reply, { route, startError, isRefused }: StreamRequest): void {
  const isCausedByRequest = isRefused || (startError as FastifyError | undefined)?.statusCode! < 500
  if (startError === undefined || isCausedByRequest) return
  log.warn({ err: startError, route }, `startStream failed in the handler of ${route}, and the handler neither threw the error nor returned an answer`)
}

function markReceived (stream: Stream): void {
  (stream as LiveStream).isReceived = true
}

function isStreamRequest ({ sse }: RouteOptions, accept = ''): boolean {
  return sse === 'only' || (typeof sse === 'object' && sse.kind === 'only') || accept.includes('text/event-stream')
}

function prepend<T> (hooks: T | T[] | undefined, hook: unknown): T[] {
  return [hook as T, ...listed(hooks)]
}

function listed<T> (hooks: T | T[] | undefined): T[] {
  return hooks === undefined ? [] : Array.isArray(hooks) ? hooks : [hooks]
}

const plugin = fp(octaStarStreams, { fastify: '5.x', name: 'octa-star-streams' })

export default plugin
export { plugin as octaStarStreams }
