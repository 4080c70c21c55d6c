// The plugin, from top to bottom: options, decorators, hooks.
import { fastifySSE } from '@fastify/sse'
import type { FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import fp from 'fastify-plugin'
import { LocalBackend } from './backend.ts'
import { alone } from './cluster.ts'
import { browserFile } from './browser-file.ts'
import { Connection } from './connection.ts'
import {
  FST_ERR_OCTA_STAR_ALREADY_REGISTERED, FST_ERR_OCTA_STAR_LIMIT, FST_ERR_OCTA_STAR_NOT_ACCEPTABLE, FST_ERR_OCTA_STAR_OPTION,
  FST_ERR_OCTA_STAR_REPLY_SENT, FST_ERR_OCTA_STAR_ROUTE, FST_ERR_OCTA_STAR_STARTED_TWICE
} from './errors.ts'
import { farewellReason } from './farewell.ts'
import { resolveOptions, type ResolvedOptions } from './options.ts'
import { Registry } from './registry.ts'
import { checkTabId, readTabId } from './signals.ts'
import { LiveStream } from './stream.ts'
import { streamKey } from './stream-key.ts'
import type { OctaStarStreamsOptions, ScopeKey, StartStreamOptions, Stream } from '../types/index.ts'

export type * from '../types/index.ts'
export type { ClusterEvent, KeyFlappingEvent, StreamCloseEvent, StreamOpenEvent, StreamReplaceEvent } from './diagnostics.ts'
export { streamKey }

/** What one request to a route with `sse` carries. */
interface StreamRequest {
  readonly connection: Connection
  /** What the client sent before validation took anything away: its tab id, or else what is wrong with it. */
  tabId: string | undefined
  tabIdError: unknown
  /** Set when `startStream` was called. */
  stream: LiveStream | undefined
}

const kStreamRequest = Symbol('octa-star-streams.request')
type Reply = FastifyReply & { [kStreamRequest]?: StreamRequest }

async function octaStarStreams (fastify: FastifyInstance, opts: OctaStarStreamsOptions): Promise<void> {
  if (fastify.hasReplyDecorator('startStream')) throw new FST_ERR_OCTA_STAR_ALREADY_REGISTERED()
  const options = resolveOptions(opts)
  await registerSSE(fastify, options)
  if (options.browser !== undefined) await serveBrowserFile(fastify, options.browser)

  const { replaceTimeout } = options
  const cluster = await options.cluster?.join({ log: fastify.log, replaceTimeout }) ?? alone
  const registry = new Registry(new LocalBackend(), cluster, options, fastify.log)
  fastify.decorate('streamRegistry', registry)

  async function start (this: Reply, scopeKey: ScopeKey, { name }: StartStreamOptions = {}): Promise<Stream> {
    const { request, sse, log } = this
    const route = `${request.method} ${request.routeOptions.url}`
    const current = this[kStreamRequest]
    if (current === undefined) throw new FST_ERR_OCTA_STAR_ROUTE(route)
    if (current.stream !== undefined) throw new FST_ERR_OCTA_STAR_STARTED_TWICE(route)
    if (this.sent || this.raw.headersSent) throw new FST_ERR_OCTA_STAR_REPLY_SENT(route)
    if (sse === undefined) throw new FST_ERR_OCTA_STAR_NOT_ACCEPTABLE(request.headers.accept ?? '')
    if (current.tabIdError !== undefined) throw current.tabIdError

    const key = streamKey(scopeKey, current.tabId, name, `startStream in ${route}`)
    const refuse = () => { this.code(204).send() }
    const stream = current.stream = new LiveStream({ key, connection: current.connection, options, log, route }, refuse)
    if (!mayStart(this, stream)) throw stream.signal.reason
    try {
      await stream.start(registry.replaceAndRegister(key, stream), sse)
    } catch (error) {
      // By then those that are ending now have ended.
      if (error instanceof FST_ERR_OCTA_STAR_LIMIT) this.header('retry-after', Math.ceil(options.replaceTimeout / 1000))
      throw error
    }
    // From here on the response is the stream's: no handlerTimeout, no second answer.
    this.hijack()
    return stream
  }

  fastify.decorateReply('startStream', function startStream (this: Reply, scopeKey: ScopeKey, options?: StartStreamOptions): Promise<Stream> {
    const started = start.call(this, scopeKey, options)
    // A handler may await it later, and its client leave before: no fault, so no unhandled rejection, which ends the process.
    if (this[kStreamRequest]?.stream !== undefined) started.catch(() => {})
    return started
  })

  fastify.addHook('onRoute', (route) => {
    if (route.sse) attach(route, options)
  })

  // Between the two Fastify waits for open responses, for ever if need be.
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

async function serveBrowserFile (fastify: FastifyInstance, path: string): Promise<void> {
  const { body, etag } = await browserFile()
  fastify.get<{ Querystring: { v?: string } }>(path, (request, reply) => {
    // With a version in its address, as in ?v=0.1.0, it never changes.
    reply.header('etag', etag).header('cache-control', request.query.v === undefined ? 'no-cache' : 'public, max-age=31536000, immutable')
    if (request.headers['if-none-match']?.includes(etag)) return reply.code(304).send()
    return reply.type('text/javascript; charset=utf-8').send(body)
  })
}

// Avvio gives up on a preClose hook after `pluginTimeout` (0: never), and close() rejects.
function closeTimeout ({ initialConfig: { pluginTimeout } }: FastifyInstance, { replaceTimeout }: ResolvedOptions): number {
  return pluginTimeout ? Math.min(replaceTimeout, pluginTimeout / 2) : replaceTimeout
}

/** Ends, before it touches any holder, a stream that must not or cannot be. */
function mayStart (reply: Reply, stream: LiveStream): boolean {
  const { request } = reply
  if (reply[kStreamRequest]!.connection.over) stream.close('disconnected')
  else if (request.method === 'HEAD') {
    // Fastify answers HEAD with a GET route's handler: the head is all there is to say.
    reply.type('text/event-stream').send()
    stream.close('finished')
  } else {
    const reason = farewellReason(request.headers['last-event-id'])
    if (reason !== undefined) stream.close(reason)
  }
  return !stream.closing
}

/** Attaches to one route what a stream needs; other routes pay nothing. */
function attach (route: RouteOptions, options: ResolvedOptions): void {
  const { handler } = route

  // First of the route's own, to see a client leave while later hooks work.
  route.onRequest = prepend(route.onRequest, (_request: FastifyRequest, reply: Reply, done: () => void) => {
    reply[kStreamRequest] = { connection: new Connection(reply.raw), tabId: undefined, tabIdError: undefined, stream: undefined }
    done()
  })

  // Ajv's `removeAdditional` strips unknown properties in validation, which comes next.
  route.preValidation = prepend(route.preValidation, (request: FastifyRequest, reply: Reply, done: () => void) => {
    const current = reply[kStreamRequest]!
    try {
      current.tabId = options.tabId === undefined ? readTabId(request, options.signal) : checkTabId(options.tabId(request))
    } catch (error) {
      // Thrown by startStream: a route with `sse` may also answer requests that it starts no stream for.
      current.tabIdError = error
    }
    done()
  })

  // Whichever way round this wraps and is wrapped by @fastify/sse: after startStream, that one neither ends nor answers.
  route.handler = async function (this: FastifyInstance, request: FastifyRequest, reply: Reply) {
    const current = reply[kStreamRequest]!
    try {
      const payload = await handler.call(this, request, reply)
      current.stream?.handlerReturned()
      return payload
    } catch (error) {
      if (!current.stream?.handlerThrew(error)) throw error
      // Nobody is left to answer, or the answer is under way: Fastify takes a reply for "wait until it is sent".
      if (current.connection.over) reply.hijack()
      return reply
    }
  } as RouteOptions['handler']
}

function prepend<T> (hooks: T | T[] | undefined, hook: unknown): T[] {
  return [hook as T, ...hooks === undefined ? [] : Array.isArray(hooks) ? hooks : [hooks]]
}

const plugin = Object.assign(
  fp(octaStarStreams, { fastify: '5.x', name: 'octa-star-streams' }),
  // What `require('octa-star-streams')` returns has the named exports as properties.
  { streamKey }
)

export default plugin
export { plugin as octaStarStreams, plugin as 'module.exports' }
