// A listening Fastify with the plugin, whose log is kept: a test ends by asking that nothing in it is an error.
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
  /** Where it listens, once it does. */
  url: (path: string) => string
  port: () => number
  listen: () => Promise<App>
}

export interface AppOptions extends OctaStarStreamsOptions {
  fastify?: FastifyServerOptions
  /** From which level on lines are kept. Default: `'debug'`. */
  logLevel?: string
  /** Set where an error in the log is what the test is about. */
  errorsExpected?: boolean
}

/** Not yet listening: a test adds its routes first. Closed, and its log checked, when the test ends. */
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
    // Not t.equal: when a test is torn down its assertions are over. A throw fails it all the same.
    if (errorsExpected !== true) assert.deepEqual(log.filter(line => line.level >= LEVELS.error), [], 'nothing is logged as an error')
    assert.equal(fastify.streamRegistry.size, 0, 'the registry is empty at the end')
  })
  return app
}

/** A route that opens a stream for the scope in the path and leaves it open, and every stream it opened so far. */
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

/** Registers a cleanup on `stream` that lasts until the function that it returns is called. */
export function holdUp (stream: Stream): () => void {
  let letGo = () => {}
  const held = new Promise<void>(resolve => { letGo = resolve })
  stream.onClose(() => held)
  return letGo
}

/** `path` with the signals as Datastar sends them in a GET. */
export function withSignals (path: string, signals: unknown): string {
  return `${path}?datastar=${encodeURIComponent(JSON.stringify(signals))}`
}
