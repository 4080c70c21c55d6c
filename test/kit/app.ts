// A Fastify with the plugin that keeps every log line. When the test ends, no line may be an error.
import assert from 'node:assert/strict'
import { Writable } from 'node:stream'
import type { AddressInfo } from 'node:net'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import octaStarStreams, { type OctaStarStreamsOptions, type Stream } from '../../lib/index.ts'

export interface LogLine {
  level: number
  msg: string
  [property: string]: unknown
}

export const LEVELS = { debug: 20, info: 30, warn: 40, error: 50 }

export interface App {
  fastify: FastifyInstance
  /** Every log line so far. */
  log: LogLine[]
  /** The address of `path`. Call `listen` first. */
  url: (path: string) => string
  port: () => number
  listen: () => Promise<App>
}

export interface AppOptions extends OctaStarStreamsOptions {
  fastify?: FastifyServerOptions
  /** The lowest level of log lines to keep. Default: `'debug'`. */
  logLevel?: string
  /** Set if the test provokes errors in the log. */
  errorsExpected?: boolean
}

/** Returns an app that does not listen yet: add the routes, then call `listen`. Closes the app and checks the log when the test ends. */
export async function buildApp (t: Test, { fastify: server, logLevel = 'debug', errorsExpected, ...options }: AppOptions = {}): Promise<App> {
  const log: LogLine[] = []
  const sink = new Writable({
    write (chunk, _encoding, done) {
      for (const line of String(chunk).trim().split('\n')) log.push(JSON.parse(line))
      done()
    }
  })
  const fastify: FastifyInstance = Fastify({ logger: { level: logLevel, stream: sink }, forceCloseConnections: 'idle', ...server }) as FastifyInstance
  await fastify.register(octaStarStreams, options)
  const port = () => (fastify.server.address() as AddressInfo).port
  const app: App = {
    fastify,
    log,
    port,
    url: path => `http://127.0.0.1:${port()}${path}`,
    async listen () {
      await fastify.listen({ port: 0, host: '127.0.0.1' })
      return app
    }
  }
  t.teardown(async () => {
    await fastify.close()
    // In a teardown tap takes no more assertions, so `t.equal` would be lost. A throw still fails the test.
    if (errorsExpected !== true) assert.deepEqual(log.filter(line => line.level >= LEVELS.error), [], 'nothing is logged as an error')
    assert.equal(fastify.streamRegistry.size, 0, 'the registry is empty at the end')
  })
  return app
}

/** Adds a route that opens a stream for the scope in the path and keeps the stream open. Returns the list of streams opened so far. */
export function streamRoute (app: App, url = '/stream/:scope', onOpen: (stream: Stream) => void = () => {}): Stream[] {
  const streams: Stream[] = []
  app.fastify.route<{ Params: { scope: string } }>({
    method: ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'],
    url,
    sse: 'only',
    async handler (request, reply) {
      const stream = await reply.startStream(request.params.scope ?? 'scope')
      streams.push(stream)
      stream.keepAlive()
      onOpen(stream)
    }
  })
  return streams
}

/** Registers a cleanup on `stream` that does not finish by itself. Returns a function that finishes the cleanup. */
export function holdUp (stream: Stream): () => void {
  let letGo = () => {}
  const held = new Promise<void>(resolve => { letGo = resolve })
  stream.onClose(() => held)
  return letGo
}

/** `path` with the signals in the query, as Datastar sends signals in a GET request. */
export function withSignals (path: string, signals: unknown): string {
  return `${path}?datastar=${encodeURIComponent(JSON.stringify(signals))}`
}

/** The streams of a registry that holds nothing but streams. */
export function streamsOf (fastify: FastifyInstance): Stream[] {
  return [...fastify.streamRegistry] as Stream[]
}
