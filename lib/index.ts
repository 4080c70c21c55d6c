// The plugin from top to bottom: options, decorators and hooks. The only file that knows Fastify.
import { fastifySSE } from '@fastify/sse'
import type { FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import fp from 'fastify-plugin'
import { readBrowserModule } from './browser-module.ts'
import {
  FST_ERR_OCTA_STAR_ALREADY_REGISTERED, FST_ERR_OCTA_STAR_LIMIT, FST_ERR_OCTA_STAR_NOT_ACCEPTABLE, FST_ERR_OCTA_STAR_NOT_IN_HANDLER,
  FST_ERR_OCTA_STAR_OPTION, FST_ERR_OCTA_STAR_REPLY_SENT, FST_ERR_OCTA_STAR_ROUTE, FST_ERR_OCTA_STAR_STARTED_TWICE
} from './errors.ts'
import { StreamResponse } from './http/response.ts'
import { checkTabId, readTabId } from './http/signals.ts'
import { noCluster } from './no-cluster.ts'
import { resolveOptions, type ResolvedOptions } from './options.ts'
import { Registry } from './registry/registry.ts'
import { streamKey } from './registry/stream-key.ts'
import { farewellReason } from './stream/ending.ts'
import { LiveStream } from './stream/stream.ts'
import type { OctaStarStreamsOptions, ScopeKey, StartStreamOptions, Stream } from '../types/index.ts'

export type * from '../types/index.ts'
export type { ClusterEvent, KeyFlappingEvent, StreamCloseEvent, StreamOpenEvent, StreamReplaceEvent } from './diagnostics.ts'
export { streamKey }

/** The plugin's state for a request to a route with the option `sse`. */
interface StreamRequest {
  readonly response: StreamResponse
  /** The tab id as sent by the client, read before validation can remove unknown properties. */
  tabId: string | undefined
  /** The error that reading the tab id threw. `startStream` throws this error. */
  tabIdError: unknown
  /** `true` once the handler has been called. */
  isHandling: boolean
  /** Set by `startStream`. */
  stream: LiveStream | undefined
}

const kStreamRequest = Symbol('octa-star-streams.request')
type Reply = FastifyReply & { [kStreamRequest]?: StreamRequest }

async function octaStarStreams (fastify: FastifyInstance, opts: OctaStarStreamsOptions): Promise<void> {
  if (fastify.hasReplyDecorator('startStream')) throw new FST_ERR_OCTA_STAR_ALREADY_REGISTERED()
  const options = resolveOptions(opts)
  await registerSSE(fastify, options)
  if (options.browser !== undefined) await serveBrowserModule(fastify, options.browser)

  const { replaceTimeout } = options
  const cluster = await options.cluster?.join({ log: fastify.log, replaceTimeout }) ?? noCluster
  const registry = new Registry(cluster, options, fastify.log)
  fastify.decorate('streamRegistry', registry)

  async function start (this: Reply, scopeKey: ScopeKey, { name }: StartStreamOptions = {}): Promise<Stream> {
    const { request, sse, log } = this
    const route = `${request.method} ${request.routeOptions.url}`
    const current = this[kStreamRequest]
    if (current === undefined) throw new FST_ERR_OCTA_STAR_ROUTE(route)
    if (!current.isHandling) throw new FST_ERR_OCTA_STAR_NOT_IN_HANDLER(route)
    if (current.stream !== undefined) throw new FST_ERR_OCTA_STAR_STARTED_TWICE(route)
    if (this.sent || this.raw.headersSent) throw new FST_ERR_OCTA_STAR_REPLY_SENT(route)
    if (sse === undefined) throw new FST_ERR_OCTA_STAR_NOT_ACCEPTABLE(request.headers.accept ?? '')
    if (current.tabIdError !== undefined) throw current.tabIdError

    const key = streamKey(scopeKey, current.tabId, name, `startStream in ${route}`)
    const refuse = () => { this.code(204).send() }
    const stream = current.stream = new LiveStream({ key, response: current.response, options, log, route }, refuse)
    if (!mayStart(this, stream)) throw stream.signal.reason
    try {
      await stream.start(registry.replaceAndRegister(key, stream), sse)
    } catch (error) {
      // `replaceTimeout` bounds how long an ending stream keeps its place, and is therefore a safe Retry-After.
      if (error instanceof FST_ERR_OCTA_STAR_LIMIT) this.header('retry-after', Math.ceil(options.replaceTimeout / 1000))
      throw error
    }
    // From here on the response belongs to the stream: Fastify must neither time out nor reply.
    this.hijack()
    return stream
  }

  fastify.decorateReply('startStream', function startStream (this: Reply, scopeKey: ScopeKey, options?: StartStreamOptions): Promise<Stream> {
    const started = start.call(this, scopeKey, options)
    // The client may disconnect before the handler awaits the promise. That is not a fault, and an unhandled rejection would
    // end the process.
    if (this[kStreamRequest]?.stream !== undefined) started.catch(() => {})
    return started
  })

  fastify.addHook('onRoute', (route) => {
    if (route.sse) attach(route, options)
  })

  // Streams must end in preClose: before onClose, Fastify waits for open responses without a limit.
  // https://fastify.dev/docs/latest/Reference/Hooks/#preclose
  fastify.addHook('preClose', () => registry.close(closeTimeout(fastify, options)))
  fastify.addHook('onClose', async () => {
    registry.clear()
    await cluster.leave()
  })
}

async function registerSSE (fastify: FastifyInstance, { sse }: ResolvedOptions): Promise<void> {
  if (!fastify.hasPlugin('@fastify/sse')) await fastify.register(fastifySSE, sse ?? {})
  else if (sse !== undefined) {
    throw new FST_ERR_OCTA_STAR_OPTION('sse', 'left out where the application registers @fastify/sse itself', 'options that would have no effect')
  }
}

async function serveBrowserModule (fastify: FastifyInstance, path: string): Promise<void> {
  const { body, etag } = await readBrowserModule()
  fastify.get<{ Querystring: { v?: string } }>(path, (request, reply) => {
    // Under an address with a version, such as ?v=0.1.0, the module never changes.
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

/** Returns `false`, and ends the stream before any holder is affected, if the request must not start a stream. */
function mayStart (reply: Reply, stream: LiveStream): boolean {
  const { request } = reply
  if (reply[kStreamRequest]!.response.closed) stream.close('disconnected')
  else if (request.method === 'HEAD') {
    // Fastify runs a GET route's handler for HEAD too (exposeHeadRoutes). The response consists of the head alone.
    reply.type('text/event-stream').send()
    stream.close('finished')
  } else {
    const reason = farewellReason(request.headers['last-event-id'])
    if (reason !== undefined) stream.close(reason)
  }
  return !stream.closing
}

/** Adds hooks and a handler wrapper to a route with the option `sse`. Routes without that option pay nothing. */
function attach (route: RouteOptions, options: ResolvedOptions): void {
  const { handler } = route

  // The first hook of the route, so that a disconnect during a later hook is noticed.
  route.onRequest = prepend(route.onRequest, (_request: FastifyRequest, reply: Reply, done: () => void) => {
    reply[kStreamRequest] = { response: new StreamResponse(reply.raw), tabId: undefined, tabIdError: undefined, isHandling: false, stream: undefined }
    done()
  })

  // Before validation, in which Ajv's `removeAdditional` strips unknown properties:
  // https://fastify.dev/docs/latest/Reference/Validation-and-Serialization/#validator-compiler
  route.preValidation = prepend(route.preValidation, (request: FastifyRequest, reply: Reply, done: () => void) => {
    const current = reply[kStreamRequest]!
    try {
      current.tabId = options.tabId === undefined ? readTabId(request, options.signal) : checkTabId(options.tabId(request))
    } catch (error) {
      // Not thrown here, because a route with `sse` may answer some requests without starting a stream.
      current.tabIdError = error
    }
    done()
  })

  // @fastify/sse wraps the handler too, inside or outside of this wrapper. After startStream, @fastify/sse neither ends the
  // response nor replies, so the order does not matter.
  route.handler = async function (this: FastifyInstance, request: FastifyRequest, reply: Reply) {
    const current = reply[kStreamRequest]!
    current.isHandling = true
    try {
      const payload = await handler.call(this, request, reply)
      current.stream?.handlerReturned()
      return payload
    } catch (error) {
      if (!current.stream?.handlerThrew(error)) throw error
      // The client has disconnected, or the reply is already on its way. Fastify waits until a returned reply is sent.
      if (current.response.closed) reply.hijack()
      return reply
    }
  } as RouteOptions['handler']
}

function prepend<T> (hooks: T | T[] | undefined, hook: unknown): T[] {
  return [hook as T, ...hooks === undefined ? [] : Array.isArray(hooks) ? hooks : [hooks]]
}

const plugin = Object.assign(
  fp(octaStarStreams, { fastify: '5.x', name: 'octa-star-streams' }),
  // `require('octa-star-streams')` returns the plugin itself, with the named exports as properties.
  { streamKey }
)

export default plugin
export { plugin as octaStarStreams, plugin as 'module.exports' }
