// Errors after the head. An abort error of any common client is a normal end once the stream has begun to end, and no other error is.
import diagnostics from 'node:diagnostics_channel'
import { EventEmitter, on, once } from 'node:events'
import net, { type AddressInfo, type Socket } from 'node:net'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { setImmediate as turn, setTimeout as delay } from 'node:timers/promises'
import Anthropic from '@anthropic-ai/sdk'
import axios from 'axios'
import type { FastifyRequest } from 'fastify'
import got from 'got'
import ky from 'ky'
import { MongoClient } from 'mongodb'
import OpenAI from 'openai'
import t, { type Test } from 'tap'
import { Agent, request as undiciRequest } from 'undici'
import { isAbort } from '../lib/errors.ts'
import { streamKey, type CloseReason, type Stream, type StreamCloseEvent } from '../lib/index.ts'
import { buildApp, LEVELS, withSignals, type App } from './kit/app.ts'
import { connect } from './kit/client.ts'

const path = withSignals('/stream', { tabId: 'a' })

type Work = (stream: Stream, request: FastifyRequest) => unknown

interface WorkingApp {
  app: App
  streams: Stream[]
  /** The errors that the handler threw. */
  thrown: unknown[]
  closings: StreamCloseEvent[]
}

/** An app with a handler that starts a stream and does the work. */
async function workingApp (t: Test, work: Work): Promise<WorkingApp> {
  const app = await buildApp(t, { errorsExpected: true })
  const streams: Stream[] = []
  const thrown: unknown[] = []
  const closings: StreamCloseEvent[] = []
  const onClosing = (event: unknown) => { closings.push(event as StreamCloseEvent) }
  diagnostics.subscribe('octa-star:stream:close', onClosing)
  t.teardown(() => { diagnostics.unsubscribe('octa-star:stream:close', onClosing) })
  app.fastify.addContentTypeParser('application/x-upload', (_request, payload, done) => { done(null, payload) })
  app.fastify.route({
    method: ['GET', 'POST'],
    url: '/stream',
    sse: 'only',
    async handler (request, reply) {
      const stream = await reply.startStream('ann')
      streams.push(stream)
      try {
        await work(stream, request)
      } catch (error) {
        thrown.push(error)
        throw error
      }
    }
  })
  await app.listen()
  return { app, streams, thrown, closings }
}

const faults = (app: App) => app.log.filter(line => line.level >= LEVELS.warn)

/** A server that accepts connections and never answers. `requested` is emitted when a client has sent something. */
async function hangingServer (t: Test): Promise<{ url: string, requests: EventEmitter }> {
  const requests = new EventEmitter()
  const sockets = new Set<Socket>()
  const server = net.createServer(socket => {
    sockets.add(socket.on('error', () => {}).on('data', () => requests.emit('requested')))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`, requests }
}

// Some of these libraries throw a separate error, and the rest throw the signal's reason.
const clients: Record<string, (url: string, signal: AbortSignal) => Promise<unknown>> = {
  openai: (url, signal) => new OpenAI({ apiKey: 'key', baseURL: url, maxRetries: 0 }).chat.completions.create({ model: 'm', messages: [] }, { signal }),
  '@anthropic-ai/sdk': (url, signal) => new Anthropic({ apiKey: 'key', baseURL: url, maxRetries: 0 }).messages.create({ model: 'm', max_tokens: 1, messages: [] }, { signal }),
  axios: (url, signal) => axios.get(url, { signal }),
  got: (url, signal) => got(url, { signal, retry: { limit: 0 } }),
  ky: (url, signal) => ky(url, { signal, timeout: false, retry: 0 }),
  undici: (url, signal) => undiciRequest(url, { signal, dispatcher: new Agent() }),
  mongodb: async (url, signal) => {
    const client = new MongoClient(url.replace('http', 'mongodb'))
    await client.db('shop').collection('orders').find({}, { signal }).toArray().finally(() => client.close())
  },
  fetch: (url, signal) => fetch(url, { signal }),
  'an AggregateError of Promise.any': (url, signal) => Promise.any([fetch(url, { signal }), axios.get(url, { signal })])
}

for (const [name, call] of Object.entries(clients)) {
  t.test(`the abort error of ${name} is a normal end when the stream has begun to end, and nothing is logged`, async t => {
    const { url, requests } = await hangingServer(t)
    const requested = once(requests, 'requested')
    const { app, streams, thrown, closings } = await workingApp(t, stream => call(url, stream.signal))
    const client = await connect(app.url(path))
    await requested
    client.leave()
    t.equal(await streams[0]!.gone, 'disconnected')
    t.equal(thrown.length, 1, String(thrown[0]))
    t.strictSame(faults(app), [])
    t.match(closings, [{ reason: 'disconnected', error: undefined }])
  })
}

// Tests each name and code separately, so that no client depends on the name or code of another client.
const abort = () => new DOMException('This operation was aborted', 'AbortError')
const chain = (length: number, cause: unknown): unknown => length === 0 ? cause : chain(length - 1, new Error('a query failed', { cause }))
const inACircle = new Error('a fault')
inACircle.cause = new Error('a fault', { cause: inACircle })

const aborts: Record<string, unknown> = {
  'undici\'s code UND_ERR_ABORTED': Object.assign(new Error('Request aborted'), { code: 'UND_ERR_ABORTED' }),
  'PostgreSQL\'s query_canceled, as pg throws it': Object.assign(new Error('canceling statement due to user request'), { code: '57014', severity: 'ERROR' }),
  'an error whose class alone is named, as openai throws it': new (class APIUserAbortError extends Error {})('Request was aborted.'),
  'axios\'s CanceledError without its code': Object.assign(new Error('canceled'), { name: 'CanceledError' }),
  'axios\'s code ERR_CANCELED': Object.assign(new Error('canceled'), { code: 'ERR_CANCELED' }),
  'got\'s code ERR_ABORTED': Object.assign(new Error('This operation was aborted.'), { code: 'ERR_ABORTED' }),
  'an error of Node with code ABORT_ERR': Object.assign(new Error('The operation was aborted'), { code: 'ABORT_ERR' }),
  'an abort error that caused others, a hundred deep': chain(100, abort()),
  'an AggregateError of abort errors, some of them deep causes': new AggregateError([abort(), chain(3, abort())]),
  'an AggregateError in a cause in an AggregateError': new AggregateError([chain(2, new AggregateError([abort()]))]),
  'the ECONNRESET of a request whose client has disconnected': Object.assign(new Error('aborted'), { code: 'ECONNRESET' })
}

const ordinary: Record<string, unknown> = {
  'an error': new Error('a fault'),
  undefined,
  'a string': 'AbortError',
  'an object that is named like an abort error': { name: 'AbortError', code: 'ABORT_ERR' },
  'a TimeoutError': new DOMException('The operation timed out', 'TimeoutError'),
  'an AggregateError of an abort error and a fault': new AggregateError([abort(), new Error('a fault')]),
  'an AggregateError of nothing': new AggregateError([]),
  'causes that go round in a circle': inACircle,
  'the ECONNRESET of another connection': Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' })
}

for (const [kinds, expected] of [[aborts, true], [ordinary, false]] as const) {
  for (const [name, error] of Object.entries(kinds)) {
    t.test(`${name} is ${expected ? 'an abort' : 'no abort'}`, async t => { t.equal(isAbort(error), expected) })
  }
}

t.test('if a client disconnects while the handler reads the body of the request, the handler ends normally, and nothing is logged', async t => {
  const { app, streams, thrown } = await workingApp(t, async (_stream, request) => {
    await once((request.body as Readable).resume(), 'end')
  })
  const socket = net.connect(app.port(), '127.0.0.1')
  socket.write(`POST ${path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-upload\r\ncontent-length: 100\r\n\r\npart`)
  await once(socket, 'data')
  socket.resetAndDestroy()
  t.equal(await streams[0]!.gone, 'disconnected')
  t.match(thrown, [{ code: 'ECONNRESET', message: 'aborted' }])
  t.strictSame(faults(app), [])
})

t.test('a pipeline to a sink that sends is a normal end when the stream has ended, and nothing is logged', async t => {
  const { app, streams, thrown } = await workingApp(t, async stream => {
    const endless = Readable.from((async function * () { for (;; await turn()) yield 'item' })())
    await pipeline(endless, async source => { for await (const item of source) await stream.send(item) })
  })
  const client = await connect(app.url(path))
  client.leave()
  t.equal(await streams[0]!.gone, 'disconnected')
  t.equal(thrown.length, 1)
  t.strictSame(faults(app), [])
})

const faulty: Array<[string, Work, CloseReason]> = [
  ['while the stream is live', () => { throw new Error('a fault') }, 'failed'],
  ['because the stream has ended', async stream => {
    await once(stream.signal, 'abort')
    throw new Error('a fault')
  }, 'disconnected'],
  ['as an abort error although the stream is live', () => { throw Object.assign(new Error('a fault'), { name: 'AbortError' }) }, 'failed']
]

for (const [when, work, reason] of faulty) {
  t.test(`an error that the handler throws ${when} is logged in one line that names the stream, and is the error of the close event`, async t => {
    const { app, streams, thrown, closings } = await workingApp(t, work)
    const client = await connect(app.url(path))
    if (reason === 'disconnected') client.leave()
    else t.equal(await client.ended, 'broken')
    t.equal(await streams[0]!.gone, reason)
    // Fastify would log a line in a later turn.
    for (let turns = 0; turns < 10; turns++) await turn()
    t.match(faults(app), [{
      level: LEVELS.error,
      msg: 'the handler of the stream on GET /stream threw an error',
      err: { message: 'a fault' },
      streamId: streams[0]!.id,
      route: 'GET /stream',
      scope: streamKey('ann', 'a').scope,
      tabId: 'a',
      reason,
      reqId: 'req-1'
    }])
    t.equal(faults(app).length, 1)
    t.equal(closings.length, 1)
    t.equal(closings[0]!.error, thrown[0])
    t.equal(closings[0]!.reason, reason)
  })
}

t.test('any number of waits on one signal causes no warning of Node', async t => {
  const warnings: Error[] = []
  const onWarning = (warning: Error) => { warnings.push(warning) }
  process.on('warning', onWarning)
  t.teardown(() => { process.off('warning', onWarning) })
  const emitter = new EventEmitter().setMaxListeners(0)
  const waits: Array<Promise<unknown>> = []
  const { url } = await hangingServer(t)
  const { app, streams } = await workingApp(t, async ({ signal }) => {
    // fetch raises the signal's limit by itself, so fetch comes last.
    const kinds: Array<() => Promise<unknown>> = [
      () => once(emitter, 'event', { signal }),
      () => on(emitter, 'event', { signal }).next(),
      () => delay(3_600_000, undefined, { signal }),
      () => fetch(url, { signal })
    ]
    waits.push(...kinds.flatMap(wait => Array.from({ length: 15 }, wait)))
    await Promise.all(waits)
  })
  const client = await connect(app.url(path))
  while (waits.length < 60) await turn()
  client.leave()
  await streams[0]!.gone
  for (let turns = 0; turns < 10; turns++) await turn()
  t.strictSame(warnings, [])
  t.equal(emitter.listenerCount('event'), 0)
})
