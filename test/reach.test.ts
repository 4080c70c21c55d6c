// Messages through the registry: to a tab, to a user, to everybody, on each transport, and across processes.
import http from 'node:http'
import net, { type Socket } from 'node:net'
import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import type { Holder, MessageTarget, ScopeKey, SendOptions, Stream, StreamRegistry } from '../lib/index.ts'
import { chunkOf } from '../lib/event.ts'
import { defaults } from '../lib/options.ts'
import { Registry } from '../lib/registry/registry.ts'
import { streamKey } from '../lib/registry/stream-key.ts'
import { buildApp, holdUp, streamRoute, withSignals, type App, type AppOptions } from './kit/app.ts'
import { connect, type Client } from './kit/client.ts'
import { pendingStream, startOn, type FakeStream, type PendingOptions } from './kit/fake-stream.ts'
import { FLOOD } from './kit/flood.ts'
import { http2App, openIn, received, transportOptions } from './kit/http2.ts'
import { disconnect, memoryCluster, MemoryStore } from './kit/memory-cluster.ts'
import { memoryLog } from './kit/memory-log.ts'
import { PlainHolder } from './kit/plain-holder.ts'
import { isQuickRun } from './kit/programs.ts'
import { seeded } from './kit/seed.ts'
import { watchUnhandled } from './kit/unhandled.ts'

interface Reached extends App {
  /** All streams so far, oldest first. */
  streams: Stream[]
  /** Opens a stream of `scope`, for a tab and with a name if these are given. */
  open: (scope: string, tabId?: string, name?: string) => Promise<Client>
}

/** A listening app. `onOpen` is called in the handler, in the turn in which the stream opens. */
async function listen (t: Test, options: AppOptions = {}, onOpen: (stream: Stream) => void = () => {}): Promise<Reached> {
  const app = await buildApp(t, options)
  const streams = streamRoute(app, '/stream/:scope', onOpen)
  app.fastify.get<{ Params: { scope: string, name: string } }>('/stream/:scope/:name', { sse: 'only' }, async (request, reply) => {
    const stream = await reply.startStream(request.params.scope, { name: request.params.name })
    streams.push(stream)
    stream.keepAlive()
  })
  app.fastify.get('/plain', async () => 'plain')
  await app.listen()
  return {
    ...app,
    streams,
    open (scope, tabId, name) {
      const path = name === undefined ? `/stream/${scope}` : `/stream/${scope}/${name}`
      return connect(app.url(tabId === undefined ? path : withSignals(path, { tabId })))
    }
  }
}

/** Two listening apps whose registries are members of one cluster. */
async function listenTogether (t: Test, options: AppOptions = {}) {
  const store = new MemoryStore()
  const adapters = [memoryCluster(store), memoryCluster(store)] as const
  const [here, there] = [await listen(t, { ...options, cluster: adapters[0] }), await listen(t, { ...options, cluster: adapters[1] })]
  return { here, there, adapters, registry: here.fastify.streamRegistry }
}

/** Sends a last event to each client's stream. Resolves to the data that each client has received before that event. */
async function dataOf (streams: Stream[], clients: Client[]): Promise<string[][]> {
  for (const stream of streams) if (!stream.closing) await stream.send({ event: 'the end' })
  return await Promise.all(clients.map(async client => {
    while (client.events.at(-1)?.event !== 'the end' && client.events.at(-1)?.event !== 'octa-star-closed') await once(client, 'received')
    return client.events.slice(0, -1).map(({ data }) => data)
  }))
}

const build = (options = {}) => new Registry({ ...defaults, onLimit: 'replace-oldest', ...options }, memoryLog().log)

/** Opens a stream on a fake response in `registry`. */
async function openFake (registry: Registry, scopeKey: ScopeKey, tabId?: string, name?: string, options: PendingOptions = {}): Promise<FakeStream> {
  const key = streamKey(scopeKey, tabId, name)
  const fake = pendingStream({ ...options, key })
  await startOn(registry, fake, key)
  return fake
}

t.test('`send` reaches each stream of the scope and no other stream, and resolves to their number', async t => {
  const app = await listen(t)
  const clients = [await app.open('ann', 'a'), await app.open('ann', 'b'), await app.open('ann', 'b', 'chat'), await app.open('ann'), await app.open('bob', 'a'), await app.open('bob')]
  t.equal(await app.fastify.streamRegistry.send('ann', { event: 'order', data: { id: 7 } }), 4)
  t.equal(await app.fastify.streamRegistry.send('ann', 'text'), 4)
  t.strictSame(await dataOf(app.streams, clients), [...Array(4).fill(['{"id":7}', 'text']), [], []])
  t.strictSame(clients[0]!.events[0], { event: 'order', data: '{"id":7}', id: undefined })
})

t.test('`send` to a scope without a stream resolves to 0', async t => {
  const registry = build()
  t.equal(await registry.send('ann', 'text'), 0)
  t.equal(await registry.send('ann', 'text', { tabId: 'a' }), 0)
  t.equal(await registry.broadcast('text'), 0)
})

t.test('the options `tabId`, `name` and `except` each leave streams out, and combine', async t => {
  const registry = build()
  const streams: Record<string, FakeStream> = {}
  for (const tabId of ['a', 'b', undefined]) {
    for (const name of ['chat', undefined]) streams[`${tabId} ${name}`] = await openFake(registry, 'ann', tabId, name)
  }
  const cases: Array<[options: SendOptions | undefined, reached: string[]]> = [
    [undefined, Object.keys(streams)],
    [{}, Object.keys(streams)],
    [{ tabId: 'a' }, ['a chat', 'a undefined']],
    [{ name: 'chat' }, ['a chat', 'b chat', 'undefined chat']],
    [{ except: 'a' }, ['b chat', 'b undefined', 'undefined chat', 'undefined undefined']],
    [{ except: 'a', name: 'chat' }, ['b chat', 'undefined chat']],
    [{ tabId: 'a', name: 'chat' }, ['a chat']],
    [{ tabId: 'a', except: 'a' }, []],
    [{ tabId: 'a', except: 'b' }, ['a chat', 'a undefined']],
    [{ tabId: 'c' }, []],
    [{ name: 'news' }, []],
    // These two options leave nothing out if they are undefined.
    [{ name: undefined, except: undefined }, Object.keys(streams)]
  ]
  for (const [i, [options, reached]] of cases.entries()) {
    t.equal(await registry.send('ann', `case ${i}`, options), reached.length, JSON.stringify(options))
    t.strictSame(Object.keys(streams).filter(name => streams[name]!.response.written.includes(`case ${i}\n`)), reached, JSON.stringify(options))
  }
})

t.test('a `tabId` that is passed as undefined reaches no stream, so that a request without a tab id does not reach every tab', async t => {
  const registry = build()
  const { response } = await openFake(registry, 'ann', 'a')
  t.equal(await registry.send('ann', 'text', { tabId: undefined }), 0)
  t.equal(await registry.to('ann', { tabId: undefined, name: 'chat' }).send('text'), 0)
  t.equal(response.written, '')
  await t.rejects(registry.send('ann', 42 as never, { tabId: undefined }), { code: 'FST_ERR_OCTA_STAR_MESSAGE' })
})

t.test('a message is formatted once with the serializer of the option `sse`, however many streams get the message', async t => {
  let calls = 0
  const serializer = (data: unknown) => {
    calls++
    return `<${String((data as { id: number }).id)}>`
  }
  const app = await listen(t, { sse: { serializer } })
  const { streamRegistry } = app.fastify
  const clients = await Promise.all(['a', 'b', 'c', 'd', 'e'].map(tabId => app.open('ann', tabId)))
  const message = { data: { id: 1 } }
  for (const send of [() => streamRegistry.send('ann', message), () => streamRegistry.broadcast(message), () => streamRegistry.to('ann').send(message)]) {
    calls = 0
    t.equal(await send(), 5)
    t.equal(calls, 1)
  }
  t.strictSame(await dataOf(app.streams, clients), Array(5).fill(['<1>', '<1>', '<1>']))
})

t.test('the serializer of a route is not used by the registry, because a message may be for streams of several routes', async t => {
  const app = await buildApp(t)
  app.fastify.get('/stream', { sse: { kind: 'only', serializer: () => 'the route' } }, async (_request, reply) => {
    const stream = await reply.startStream('ann')
    stream.keepAlive()
    stream.send({ data: { id: 1 } })
    app.fastify.streamRegistry.send('ann', { data: { id: 2 } })
  })
  await app.listen()
  const client = await connect(app.url('/stream'))
  await client.event(2)
  t.strictSame(client.events.map(({ data }) => data), ['the route', '{"id":2}'])
})

const cyclic: unknown[] = []
cyclic.push(cyclic)
type Expected = { code: string } | { name: string }
const badMessages: Array<[message: unknown, error: Expected]> = [
  ...[42, null, undefined, true, [], {}, Buffer.from('a'), new Map()].map((message): [unknown, Expected] => [message, { code: 'FST_ERR_OCTA_STAR_MESSAGE' }]),
  ...[
    { event: 'a\nevent: evil' }, { event: 1 }, { id: 'octa-star-closed:evicted:4102444800000' }, { id: 'a\0' }, { id: 'ü' }, { retry: -1 }, { retry: 2 ** 31 }, { data: () => {} }
  ].map((message): [unknown, Expected] => [message, { code: 'FST_ERR_OCTA_STAR_EVENT' }]),
  [{ data: cyclic }, { name: 'TypeError' }],
  [{ data: 1n }, { name: 'TypeError' }]
]

t.test('a bad message is refused before anything is sent', async t => {
  const registry = build()
  const { response, stream } = await openFake(registry, 'ann', 'a')
  for (const [message, error] of badMessages) {
    for (const send of [() => registry.send('ann', message as string), () => registry.broadcast(message as string), () => registry.to('ann').send(message as string)]) {
      let result: unknown
      t.doesNotThrow(() => { result = send() })
      await t.rejects(result as Promise<number>, error)
    }
  }
  t.equal(response.written, '')
  t.notOk(stream.closing)
})

t.test('a message that is refused and not awaited is logged, and does not end the process', async t => {
  const unhandled = watchUnhandled(t)
  const { log, lines } = memoryLog()
  const registry = new Registry({ ...defaults, serialize: undefined }, log)
  const cycle: Record<string, unknown> = {}
  cycle.self = cycle
  registry.send('ann', { data: cycle })
  registry.send(undefined as unknown as ScopeKey, 'hello')
  registry.broadcast(42 as unknown as string)
  registry.to('ann').send({ event: 'a\nb' })
  await turn()
  t.strictSame(unhandled, [])
  t.match(lines, Array(4).fill({ level: 'warn', message: 'a message could not be sent by streamRegistry' }))
})

t.test('bad options and bad scope keys are refused before anything is sent', async t => {
  const registry = build()
  const { response } = await openFake(registry, 'ann', 'a')
  const badOptions: unknown[] = [
    null, 'a', 1, true, [], ['a'], new Map([['tabId', 'a']]), new Set(), new Date(), () => {},
    { tabID: 'a' }, { tab: 'a' }, { tabId: 1 }, { tabId: null }, { name: 1 }, { name: null }, { except: {} }, { except: null }, { tabId: 'a', other: undefined }
  ]
  for (const options of badOptions) {
    await t.rejects(registry.send('ann', 'text', options as SendOptions), { code: 'FST_ERR_OCTA_STAR_SEND_OPTION' })
    t.throws(() => registry.to('ann', options as SendOptions), { code: 'FST_ERR_OCTA_STAR_SEND_OPTION' })
  }
  for (const scopeKey of [undefined, null, NaN, Infinity, () => {}, new Date(), cyclic]) {
    const [key, error] = [scopeKey as never, { code: 'FST_ERR_OCTA_STAR_SCOPE_KEY' }]
    await t.rejects(registry.send(key, 'text'), error)
    await t.rejects(registry.list(key), error)
    t.throws(() => registry.to(key), error)
    t.throws(() => registry.streams(key), error)
  }
  t.equal(response.written, '')
  await t.rejects(registry.send('ann', 'text', { tabID: 'a' } as SendOptions), { message: 'send(): the option \'tabID\' must be one of tabId, name, except, got "a"' })
})

t.test('options without a prototype are options, as Fastify\'s parsers make them', async t => {
  const registry = build()
  const { response } = await openFake(registry, 'ann', 'a')
  await openFake(registry, 'ann', 'b')
  t.equal(await registry.send('ann', 'text', Object.assign(Object.create(null), { tabId: 'a' })), 1)
  t.equal(response.written, 'data: text\n\n')
})

t.test('`to(scopeKey, options).send(message)` is `send(scopeKey, message, options)`, now and for streams that open later', async t => {
  const registry = build()
  const target: MessageTarget = registry.to('ann', { except: 'a' })
  t.equal(await target.send('nobody'), 0)
  const [a, b, bob] = [await openFake(registry, 'ann', 'a'), await openFake(registry, 'ann', 'b'), await openFake(registry, 'bob', 'b')]
  t.equal(await target.send('text'), 1)
  t.strictSame([a, b, bob].map(({ response }) => response.written), ['', 'data: text\n\n', ''])
})

t.test('`broadcast` with options is refused, because a tab that the options leave out would get the message', async t => {
  const registry = build()
  const { response } = await openFake(registry, 'ann', 'a')
  await t.rejects((registry.broadcast as (...args: unknown[]) => Promise<number>).call(registry, 'hello', { except: 'a' }), { code: 'FST_ERR_OCTA_STAR_SEND_OPTION', message: /send\(scopeKey, message, \{ except \}\)/ })
  t.equal(response.written, '')
})

t.test('`broadcast` reaches each stream of every scope, and two broadcasts arrive in order', async t => {
  const app = await listen(t)
  const clients = await Promise.all([app.open('ann', 'a'), app.open('ann'), app.open('bob', 'a', 'chat'), app.open('eve')])
  for (let i = 0; i < 50; i++) {
    const sent = app.fastify.streamRegistry.broadcast({ data: i })
    if (i % 7 === 0) t.equal(await sent, 4)
  }
  t.strictSame(await dataOf(app.streams, clients), Array(4).fill(Array.from({ length: 50 }, (_, i) => String(i))))
})

t.test('a waiting stream and an ending stream get no message, and a stream that has opened gets the message once', async t => {
  const app = await listen(t)
  const { streamRegistry } = app.fastify
  const old = await app.open('ann', 'a')
  const letGo = holdUp(app.streams[0]!)
  const opening = app.open('ann', 'a')
  await old.ended
  t.ok(app.streams[0]!.closing)
  t.equal(streamRegistry.size, 1, 'the old stream still cleans up, and the new stream waits')
  t.equal(await streamRegistry.send('ann', 'too early'), 0)
  t.equal(await streamRegistry.broadcast('too early'), 0)
  letGo()
  const client = await opening
  t.equal(await streamRegistry.send('ann', 'in time'), 1)
  t.equal(await streamRegistry.broadcast('in time'), 1)
  t.strictSame(await dataOf(app.streams, [client]), [['in time', 'in time']])
  t.strictSame(old.events.map(({ event }) => event), ['octa-star-closed'])
})

t.test('a stream that sends its last words gets no other message', async t => {
  let letGo = () => {}
  const app = await listen(t, { closeGrace: 600_000 })
  const { streamRegistry } = app.fastify
  const old = await app.open('ann', 'a')
  app.streams[0]!.onReplaced(async () => {
    await app.streams[0]!.send('a last word')
    await new Promise<void>(resolve => { letGo = resolve })
  })
  const opening = app.open('ann', 'a')
  await old.event(1)
  t.equal(await streamRegistry.send('ann', 'too late'), 0)
  t.equal(await streamRegistry.broadcast('too late'), 0)
  letGo()
  await opening
  t.equal(await old.ended, 'clean')
  t.strictSame(old.events.map(({ data }) => data), ['a last word', 'replaced'])
})

t.test('a stream that was given up gets no message', async t => {
  const app = await listen(t, { replaceTimeout: 50 })
  const { streamRegistry } = app.fastify
  await app.open('ann', 'a')
  const letGo = holdUp(app.streams[0]!)
  const successor = await app.open('ann', 'a')
  t.equal(streamRegistry.givenUp, 1)
  t.equal(await streamRegistry.send('ann', 'text'), 1)
  t.equal(await streamRegistry.broadcast('text'), 1)
  t.strictSame(await dataOf(app.streams, [successor]), [['text', 'text']])
  letGo()
})

t.test('a stream whose client has disconnected gets no message, even before the kernel reports the disconnect', async t => {
  const registry = build()
  const gone = await openFake(registry, 'ann', 'a')
  const live = await openFake(registry, 'ann', 'b')
  gone.response.sever()
  t.equal(await registry.send('ann', 'text'), 1)
  t.equal(await registry.broadcast('text'), 1)
  t.strictSame([gone, live].map(({ response }) => response.written), ['', 'data: text\n\ndata: text\n\n'])
})

t.test('a holder that is not a stream is left out', async t => {
  const app = await listen(t)
  const { streamRegistry } = app.fastify
  const holder: Holder & { sent: unknown[], send: (message: unknown) => void } = Object.assign(new PlainHolder(), { sent: [] as unknown[], send (message: unknown) { this.sent.push(message) } })
  await streamRegistry.replaceAndRegister(streamKey('ann', 'socket'), holder)
  const client = await app.open('ann', 'a')
  t.equal(await streamRegistry.send('ann', 'text'), 1)
  t.equal(await streamRegistry.broadcast('text'), 1)
  t.strictSame(streamRegistry.streams('ann'), app.streams)
  t.equal((await streamRegistry.list('ann')).length, 1)
  t.strictSame(holder.sent, [])
  t.strictSame(await dataOf(app.streams, [client]), [['text', 'text']]);
  (holder as unknown as PlainHolder).leave()
})

t.test('messages of the registry and of the stream itself arrive in the order of the calls', async t => {
  const app = await listen(t, {}, stream => {
    // In the turn in which the stream opens, before the head has left.
    app.fastify.streamRegistry.send('ann', '0')
    stream.send('1')
    app.fastify.streamRegistry.broadcast('2')
  })
  const { streamRegistry } = app.fastify
  const client = await app.open('ann', 'a')
  const [stream] = app.streams
  for (let i = 3; i < 90; i += 3) {
    const sent = [streamRegistry.send('ann', String(i)), stream!.send(String(i + 1)), streamRegistry.broadcast(String(i + 2))]
    if (i % 2 === 0) await Promise.all(sent)
    if (i % 5 === 0) await turn()
  }
  t.strictSame(await dataOf(app.streams, [client]), [Array.from({ length: 90 }, (_, i) => String(i))])
})

t.test('a message that a callback sends during a send arrives behind that send, at each stream', async t => {
  const registry = build()
  const stalling = await openFake(registry, 'ann', 'a', undefined, { maxBufferedBytes: 10 })
  const [b, c] = [await openFake(registry, 'ann', 'b'), await openFake(registry, 'bob', 'c')]
  stalling.stream.onClose(() => {
    registry.broadcast('2')
    registry.send('ann', '3')
  })
  stalling.response.frozen = true
  await registry.broadcast('x'.repeat(100))
  t.equal(await registry.broadcast('1'), 2)
  t.equal(await stalling.stream.closed, 'stalled')
  t.strictSame([b, c].map(({ response }) => response.written.match(/\d/g)), [['1', '2', '3'], ['1', '2']])
})

for (const [limit, options, again] of [['maxBufferedBytes', { maxBufferedBytes: 1_000_000 }, true], ['stallTimeout', { stallTimeout: 200, maxBufferedBytes: Infinity }, false]] as const) {
  t.test(`a slow client ends as stalled by ${limit}, and delays no other client`, async t => {
    const app = await listen(t, options)
    const { streamRegistry } = app.fastify
    const deaf = await rawClient(t, app.port(), withSignals('/stream/ann', { tabId: 'deaf' }))
    deaf.socket.pause()
    const healthy = await app.open('ann', 'healthy')
    // Resolves although the deaf client never reads.
    t.equal(await streamRegistry.send('ann', FLOOD, { tabId: 'deaf' }), 1)
    t.equal(await streamRegistry.send('ann', '1'), again ? 1 : 2, 'an event does not count for a stream that stalls')
    await healthy.event(1)
    t.equal(await app.streams[0]!.closed, 'stalled')
    t.equal(await streamRegistry.send('ann', '2'), 1)
    t.strictSame(await dataOf(app.streams, [healthy]), [['1', '2']])
  })
}

t.test('over HTTP/2 only the slow stream ends as stalled, and its neighbour in the session gets everything', async t => {
  const app = await http2App(t, 'in the clear', { maxBufferedBytes: 100_000 })
  const streams = streamRoute(app)
  await app.listen()
  const { streamRegistry } = app.fastify
  const session = app.session()
  const [deaf, healthy] = [await openIn(session, 'deaf'), await openIn(session, 'healthy')]
  deaf.pause()
  t.equal(await streamRegistry.send('ann', 'x'.repeat(500_000), { tabId: 'deaf' }), 1)
  t.equal(await streamRegistry.send('ann', '1'), 1)
  t.equal(await streams[0]!.closed, 'stalled')
  t.equal(await streamRegistry.send('ann', '2'), 1)
  await received(healthy, 'data: 1\n\ndata: 2\n\n')
})

t.test('a message is written at once, and all further messages of the same turn are written together', async t => {
  const app = await listen(t)
  const first = await app.open('ann', 'a')
  let writes = 0
  const counted = new Promise<void>(resolve => app.fastify.server.once('connection', (socket: Socket & { _write: Write, _writev: Write }) => {
    const { _write, _writev } = socket
    socket._write = function (...args) { writes++; _write.apply(this, args) }
    socket._writev = function (...args) { writes++; _writev.apply(this, args) }
    resolve()
  }))
  const second = await app.open('ann', 'b')
  await counted
  const { streamRegistry } = app.fastify
  let count = 0
  for (const [messages, expected] of [[1, 1], [2, 2], [10, 2], [1, 1]] as const) {
    await turn()
    writes = 0
    for (let i = 0; i < messages; i++) streamRegistry.broadcast(String(count++))
    await turn()
    t.equal(writes, expected, `${messages} messages`)
  }
  const numbers = Array.from({ length: count }, (_, i) => String(i))
  t.strictSame(await dataOf(app.streams, [first, second]), [numbers, numbers])
})

t.test('a client that reads late gets everything in order, and its stream goes on', async t => {
  const app = await listen(t, { maxBufferedBytes: Infinity })
  const { streamRegistry } = app.fastify
  const { socket, bytes, endsWith } = await rawClient(t, app.port(), '/stream/ann')
  socket.pause()
  const texts = [FLOOD]
  await streamRegistry.send('ann', FLOOD)
  for (let i = 0; i < 20; i++) {
    texts.push(String(i))
    await streamRegistry.send('ann', String(i))
    await turn()
  }
  const waiting = app.streams[0]!.send('20')
  socket.resume()
  await waiting
  await streamRegistry.send('ann', '21')
  app.streams[0]!.close()
  await app.streams[0]!.gone
  while (!endsWith('0\r\n\r\n')) await once(socket, 'data')
  t.ok(readResponse(bytes()).body === `\n${[...texts, '20', '21'].map(formatted).join('')}`)
})

t.test('`retry` of a message of the registry determines how long the farewell stops the client', async t => {
  const retry = 100_000
  for (const send of [(registry: Registry) => registry.send('ann', { retry }), (registry: Registry) => registry.broadcast({ event: 'a', retry }), async (registry: Registry) => registry.deliver({ scope: '"ann"', text: '\n', retry })]) {
    const registry = build()
    const { stream, response } = await openFake(registry, 'ann', 'a')
    await send(registry)
    // A message without `retry` changes nothing.
    await registry.send('ann', 'text')
    const before = Date.now()
    stream.close('replaced')
    const until = Number(/id: octa-star-closed:replaced:(\d+)/.exec(response.written)![1])
    t.ok(until >= before + 60_000 + 2 * retry && until <= Date.now() + 60_000 + 2 * retry)
  }
})

t.test('`streams` returns the open streams of the scope in this process, oldest first', async t => {
  const app = await listen(t)
  const { streamRegistry } = app.fastify
  t.strictSame(streamRegistry.streams('ann'), [])
  for (const [scope, tabId] of [['ann', 'a'], ['ann', 'b'], ['bob', 'a'], ['ann', undefined]] as const) await app.open(scope, tabId)
  const [a, b, , c] = app.streams as [Stream, Stream, Stream, Stream]
  t.strictSame(streamRegistry.streams('ann').map(({ id }) => id), [a, b, c].map(({ id }) => id))
  // The tab's newer stream is the youngest, and is not open while the older stream cleans up.
  const letGo = holdUp(a)
  const aborted = once(a.signal, 'abort')
  const opening = app.open('ann', 'a')
  await aborted
  t.strictSame(streamRegistry.streams('ann').map(({ id }) => id), [b, c].map(({ id }) => id))
  letGo()
  await opening
  t.strictSame(streamRegistry.streams('ann').map(({ id }) => id), [b, c, app.streams[4]!].map(({ id }) => id))
})

t.test('`streams`, `send` and `list` look at no stream of another scope', async t => {
  const registry = build()
  await openFake(registry, 'ann', 'a')
  let visited = 0
  for (let i = 0; i < 1_000; i++) {
    const { stream } = await openFake(registry, i, 'a')
    Object.defineProperty(stream, 'openedAt', { get () { visited++; return 1 } })
  }
  t.equal(registry.streams('ann').length, 1)
  t.equal(await registry.send('ann', 'text'), 1)
  t.equal((await registry.list('ann')).length, 1)
  t.equal(visited, 0)
})

t.test('`list` returns id, tab id, name and time of each open stream of the scope', async t => {
  const app = await listen(t)
  const { streamRegistry } = app.fastify
  t.strictSame(await streamRegistry.list('ann'), [])
  for (const [scope, tabId, name] of [['ann', 'a', 'chat'], ['bob', 'a'], ['ann', 'b'], ['ann']] as const) await app.open(scope, tabId, name)
  const infos = app.streams.filter(({ scopeKey }) => scopeKey === 'ann').map(({ id, tabId, name, openedAt }) => ({ id, tabId, name, openedAt }))
  t.strictSame(await streamRegistry.list('ann'), infos)
  t.ok(infos.every(({ openedAt }) => Math.abs(Date.now() - openedAt) < 60_000))
  holdUp(app.streams[0]!)()
  app.streams[0]!.close()
  t.strictSame(await streamRegistry.list('ann'), infos.slice(1))
})

t.test('in a cluster `send`, `broadcast`, `to` and `list` reach the streams of all processes', async t => {
  const { here, there, registry } = await listenTogether(t)
  const clients = [await here.open('ann', 'a'), await there.open('ann', 'b', 'chat'), await there.open('ann'), await there.open('bob', 'b')]
  const streams = [...here.streams, ...there.streams]
  t.equal(await registry.send('ann', { data: '1' }), 3)
  t.equal(await registry.send('ann', '2', { tabId: 'b' }), 1)
  t.equal(await registry.send('ann', '3', { name: 'chat' }), 1)
  t.equal(await registry.send('ann', '4', { except: 'b' }), 2)
  t.equal(await registry.to('ann', { tabId: 'b' }).send('5'), 1)
  t.equal(await registry.send('ann', '6', { tabId: undefined }), 0)
  t.equal(await registry.broadcast('7'), 4)
  t.equal(await registry.send('bob', '8'), 1)
  t.strictSame((await registry.list('ann')).map(({ id }) => id).sort(), streams.slice(0, 3).map(({ id }) => id).sort())
  t.strictSame(await dataOf(streams, clients), [['1', '4', '7'], ['1', '2', '3', '5', '7'], ['1', '4', '7'], ['7', '8']])
})

t.test('in a cluster a message is formatted once, and `retry` counts in the other process as well', async t => {
  const store = new MemoryStore()
  let calls = 0
  const serializer = () => `call ${++calls}`
  const [here, there] = [await listen(t, { cluster: memoryCluster(store), sse: { serializer } }), await listen(t, { cluster: memoryCluster(store), sse: { serializer } })]
  const clients = [await here.open('ann', 'a'), await there.open('ann', 'b')]
  t.equal(await here.fastify.streamRegistry.send('ann', { data: {}, retry: 500_000 }), 2)
  t.equal(calls, 1)
  const before = Date.now()
  for (const stream of [...here.streams, ...there.streams]) stream.close('evicted')
  for (const client of clients) {
    await client.ended
    t.strictSame(client.events.map(({ data }) => data), ['call 1', 'evicted'])
    t.ok(Number(client.events[1]!.id!.split(':')[2]) >= before + 60_000 + 1_000_000)
  }
})

t.test('in a cluster a message above `maxMessageBytes` is refused before anything is sent, and a message of that size arrives', async t => {
  const { here, there, registry } = await listenTogether(t, { maxBufferedBytes: Infinity })
  const clients = [await here.open('ann', 'a'), await there.open('ann', 'b')]
  // Bytes of UTF-8, not characters.
  const largest = 'é'.repeat((1_048_576 - 'data: \n\n'.length) / 2)
  const error = { code: 'FST_ERR_OCTA_STAR_TOO_LARGE', message: /at most 1048576 bytes, got 1048577 bytes\. Send a smaller event, or raise the option maxMessageBytes/ }
  for (const send of [() => registry.send('ann', `${largest}x`), () => registry.broadcast(`${largest}x`)]) await t.rejects(send(), error)
  t.equal(await registry.send('ann', largest), 2)
  t.strictSame(await dataOf([...here.streams, ...there.streams], clients), [[largest], [largest]])
})

t.test('without a cluster a message may have any size', async t => {
  const app = await listen(t)
  const client = await app.open('ann', 'a')
  t.equal(await app.fastify.streamRegistry.send('ann', 'x'.repeat(2_000_000)), 1)
  t.equal((await client.event(1)).data.length, 2_000_000)
})

t.test('if the store is unreachable, a message reaches the streams of this process only, and `list` leaves out the other processes', async t => {
  const { here, there, adapters, registry } = await listenTogether(t)
  const clients = [await here.open('ann', 'a'), await there.open('ann', 'b')]
  const comeBack = disconnect(adapters[0])
  t.equal(await registry.send('ann', '1'), 1)
  t.equal(await registry.broadcast('2'), 1)
  t.strictSame((await registry.list('ann')).map(({ id }) => id), [here.streams[0]!.id])
  comeBack()
  t.equal(await registry.send('ann', '3'), 2)
  t.strictSame(await dataOf([...here.streams, ...there.streams], clients), [['1', '2', '3'], ['3']])
})

// Characters that take one to four bytes in UTF-8, a line end, and more than the socket's buffer holds.
const SHORT = 'plain, ü, 日本, 😀'
const LARGE = `${'é😀x'.repeat(150_000)} end`
// Several large events at once would end a stream as stalled.
const UNBOUNDED = { maxBufferedBytes: Infinity }
const formatted = (text: string) => `data: ${text}\n\n`

type Write = (...args: unknown[]) => void

interface Opened {
  registry: Registry
  /** Resolves to the body, once the body has as many characters as `expected`. */
  body: (expected: string) => Promise<string>
}

type OnOpen = (registry: Registry) => void
/** Called before the client opens its stream. */
type Before = (registry: Registry) => Promise<void>

const transports: Record<string, (t: Test, onOpen: OnOpen, before: Before) => Promise<Opened>> = {
  async 'HTTP/1.1' (t, onOpen, before) {
    const app = await listen(t, UNBOUNDED, () => onOpen(app.fastify.streamRegistry as Registry))
    await before(app.fastify.streamRegistry as Registry)
    const client = await app.open('ann', 'a')
    return {
      registry: app.fastify.streamRegistry as Registry,
      async body (expected) {
        while (client.text.length < expected.length) await once(client, 'received')
        return client.text
      }
    }
  },
  async 'HTTP/1.0' (t, onOpen, before) {
    const app = await listen(t, UNBOUNDED, () => onOpen(app.fastify.streamRegistry as Registry))
    await before(app.fastify.streamRegistry as Registry)
    const { socket, bytes, length } = await rawClient(t, app.port(), withSignals('/stream/ann', { tabId: 'a' }), '1.0')
    const start = bytes().indexOf('\r\n\r\n') + 4
    return {
      registry: app.fastify.streamRegistry as Registry,
      async body (expected) {
        while (length() < start + Buffer.byteLength(expected)) await once(socket, 'data')
        return bytes().subarray(start).toString()
      }
    }
  },
  'HTTP/2 in the clear': (t, onOpen, before) => overHttp2(t, 'in the clear', onOpen, before),
  'HTTP/2 over TLS': (t, onOpen, before) => overHttp2(t, 'over TLS', onOpen, before),
  async inject (t, onOpen, before) {
    const app = await buildApp(t, UNBOUNDED)
    streamRoute(app, '/stream/:scope', () => onOpen(app.fastify.streamRegistry as Registry))
    await app.fastify.ready()
    await before(app.fastify.streamRegistry as Registry)
    const response = await app.fastify.inject({ url: withSignals('/stream/ann', { tabId: 'a' }), payloadAsStream: true })
    const stream = response.stream().setEncoding('utf8')
    let text = ''
    stream.on('data', data => { text += data })
    return {
      registry: app.fastify.streamRegistry as Registry,
      async body (expected) {
        while (text.length < expected.length) await once(stream, 'data')
        return text
      }
    }
  }
}

async function overHttp2 (t: Test, transport: 'in the clear' | 'over TLS', onOpen: OnOpen, before: Before): Promise<Opened> {
  const app = await http2App(t, transport, UNBOUNDED)
  streamRoute(app, '/stream/:scope', () => onOpen(app.fastify.streamRegistry as Registry))
  await app.listen()
  await before(app.fastify.streamRegistry as Registry)
  const client = await openIn(app.session(), 'a')
  return {
    registry: app.fastify.streamRegistry as Registry,
    async body (expected) {
      while (client.text.length < expected.length) await once(client, 'data')
      return client.text
    }
  }
}

// The first stream of a message gets the text, and further streams share the bytes.
const befores: Record<string, Before> = {
  alone: async () => {},
  'behind another stream': async registry => {
    const key = streamKey('ann', 'first')
    const first = pendingStream({ ...UNBOUNDED, key })
    await startOn(registry, first, key)
    // Otherwise the close at the end of the test waits for the handler.
    first.stream.keepAlive()
    first.stream.handlerReturned()
  }
}

for (const [name, open, place, before] of Object.entries(transports).flatMap(([name, open]) => Object.entries(befores).map(([place, before]) => [name, open, place, before] as const))) {
  const options = name === 'HTTP/2 over TLS' ? transportOptions('over TLS') : {}
  t.test(`${name}, ${place}: events of any size and script arrive intact, with the head and after the head`, options, async t => {
    const { registry, body } = await open(t, registry => {
      for (const text of [SHORT, LARGE, SHORT]) registry.send('ann', text)
    }, before)
    let expected = [SHORT, LARGE, SHORT].map(formatted).join('')
    t.equal(await body(expected), expected)
    await t.test('one event in a turn, and several events in a turn', async t => {
      for (const texts of [[SHORT], [LARGE], [SHORT, SHORT, SHORT], [SHORT, LARGE, SHORT], [LARGE, SHORT]]) {
        for (const text of texts) registry.send('ann', text)
        expected += texts.map(formatted).join('')
        t.ok(await body(expected) === expected, `${texts.length} events of ${texts[0]!.length} characters`)
      }
    })
  })

  t.test(`${name}, ${place}: the first event arrives intact after a head without an event`, options, async t => {
    for (const text of [SHORT, LARGE]) {
      const { registry, body } = await open(t, () => {}, before)
      await body('\n')
      t.equal(await registry.send('ann', text), place === 'alone' ? 1 : 2)
      t.ok(await body(`\n${formatted(text)}`) === `\n${formatted(text)}`)
    }
  })
}

t.test('events of each size around the socket\'s limit arrive intact', async t => {
  const app = await listen(t)
  const clients = [await app.open('ann', 'a'), await app.open('ann', 'b')]
  const sizes = Array.from({ length: 60 }, (_, i) => 16_384 - 45 + i)
  for (const size of sizes) {
    await app.fastify.streamRegistry.send('ann', 'x'.repeat(size))
    await turn()
  }
  for (const client of clients) {
    await client.event(sizes.length)
    t.strictSame(client.events.map(({ data }) => data.length), sizes)
  }
})

const FIRST_BYTES: Record<string, [(stream: Stream, registry: StreamRegistry) => unknown, expected: string]> = {
  'an event of stream.send': [stream => stream.send(SHORT), formatted(SHORT)],
  'an event in ASCII': [stream => stream.send('hello'), formatted('hello')],
  'an event of streamRegistry.send': [(_stream, registry) => registry.send('ann', SHORT), formatted(SHORT)],
  'the first empty line': [() => {}, '\n'],
  'a farewell': [stream => stream.close('evicted'), 'data: evicted']
}

for (const [name, [act, expected]] of Object.entries(FIRST_BYTES)) {
  t.test(`a header in latin1 and ${name} arrive intact in one packet`, async t => {
    for (const version of ['1.1', '1.0']) {
      const app = await buildApp(t)
      app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
        reply.header('x-name', 'Zoë')
        const stream = await reply.startStream('ann')
        stream.keepAlive()
        act(stream, app.fastify.streamRegistry)
      })
      await app.listen()
      const { bytes } = await rawClient(t, app.port(), '/stream', version)
      const end = bytes().indexOf('\r\n\r\n')
      t.match(bytes().subarray(0, end).toString('latin1'), /^x-name: Zoë\r$/m, version)
      t.ok(bytes().subarray(end + 4).includes(expected), 'the bytes came with the head')
    }
  })
}

t.test('events that are sent with the head keep their order, also while the application has corked the response', async t => {
  for (const version of ['1.1', '1.0']) {
    const app = await buildApp(t, UNBOUNDED)
    const events = ['1', SHORT, '2', LARGE, 'to all', SHORT, 'the end']
    streamRoute(app)
    app.fastify.get('/corked', { sse: 'only' }, async (_request, reply) => {
      const stream = await reply.startStream('ann')
      stream.keepAlive()
      reply.raw.cork()
      for (const event of events) event === 'to all' ? app.fastify.streamRegistry.broadcast(event) : stream.send(event)
      reply.raw.uncork()
    })
    await app.listen()
    // The first stream takes a message to all as text, and the second stream as shared bytes.
    await connect(app.url('/stream/ann'))
    const { socket, bytes } = await rawClient(t, app.port(), '/corked', version)
    const body = version === '1.1' ? events.map(event => chunkOf(formatted(event))).join('') : events.map(formatted).join('')
    const expected = Buffer.from(body)
    while (!bytes().includes('the end')) await once(socket, 'data')
    t.ok(bytes().includes(expected), version)
  }
})

t.test('the events of a stream do not touch the next response on the same connection', async t => {
  const app = await listen(t, UNBOUNDED)
  const { streamRegistry } = app.fastify
  const { socket, bytes, endsWith } = await rawClient(t, app.port(), withSignals('/stream/ann', { tabId: 'a' }))
  // Pipelines a plain request, and a stream of another tab, which opens before the connection is free for the stream.
  socket.write(`GET /plain HTTP/1.1\r\nhost: a\r\n\r\n${request(withSignals('/stream/ann', { tabId: 'b' }))}`)
  while (app.streams.length < 2) await turn()
  const texts: string[] = []
  const send = (text: string) => {
    texts.push(text)
    return streamRegistry.send('ann', text)
  }
  t.equal(await send(SHORT), 2)
  await turn()
  for (const text of ['1', LARGE, '2', SHORT]) send(text)
  await turn()
  await send('3')
  app.streams[0]!.close()
  await app.streams[0]!.gone
  await turn()
  await streamRegistry.send('ann', '4')
  await streamRegistry.send('ann', '5')
  app.streams[1]!.close()
  while (!endsWith('0\r\n\r\n') || bytes().toString('latin1').split('HTTP/1.1 200').length < 4) await once(socket, 'data')

  const first = readResponse(bytes())
  const plain = readResponse(first.rest)
  const second = readResponse(plain.rest)
  const events = texts.map(formatted).join('')
  t.ok(first.body === `\n${events}`)
  t.equal(plain.body, 'plain')
  t.ok(second.body === `\n${events}${formatted('4')}${formatted('5')}` || second.body === `${events}${formatted('4')}${formatted('5')}`)
  t.equal(second.rest.length, 0)
})

t.test('a kept-alive connection carries the next response after events of the registry', async t => {
  const app = await listen(t, UNBOUNDED)
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  let socket
  for (let i = 0; i < 3; i++) {
    const client = await connect(app.url(withSignals('/stream/ann', { tabId: 'a' })), { agent })
    t.equal(client.socket, socket ?? client.socket)
    socket = client.socket
    for (const text of [SHORT, LARGE, SHORT]) {
      t.equal(await app.fastify.streamRegistry.broadcast(text), 1)
      await turn()
    }
    await app.fastify.streamRegistry.evict('ann')
    t.equal(await client.ended, 'clean')
    t.ok(client.text.startsWith(`\n${[SHORT, LARGE, SHORT].map(formatted).join('')}event: octa-star-closed\n`))
    const plain = await connect(app.url('/plain'), { agent })
    await plain.ended
    t.equal(plain.text, 'plain')
    t.equal(plain.socket, socket)
  }
})

t.test('no message reaches another scope, and each message reaches the streams that its options name, whatever the keys are', async t => {
  const part = fc.oneof(fc.string({ minLength: 1 }), fc.constantFrom('a', 'b', '"a"', '" "', 'a" "chat', '"a","chat"', '\\', '\n', '1', '__proto__', 'constructor', '\ud800', 'ann"\n"a'))
  const scopeKeys: fc.Arbitrary<ScopeKey> = fc.oneof(part, fc.constantFrom<ScopeKey>(1, 1n, '1', true, 'true', [], {}, ['1'], [1], '["1"]', ['a', 'b'], ['a,b'], { a: 1 }, '__proto__'))
  const maybe = fc.option(part, { nil: undefined })
  const streams = fc.uniqueArray(fc.record({ scopeKey: scopeKeys, tabId: maybe, name: maybe }), { minLength: 2, maxLength: 8, selector: ({ scopeKey, tabId, name }) => Object.values(streamKey(scopeKey, tabId, name)).slice(3).join('\0') })
  const options = fc.option(fc.record({ tabId: part, name: maybe, except: maybe }, { requiredKeys: [] }), { nil: undefined })
  await fc.assert(fc.asyncProperty(streams, fc.nat(), fc.nat(), options, fc.boolean(), async (streams, to, by, options, own) => {
    const registry = build()
    const fakes = await Promise.all(streams.map(({ scopeKey, tabId, name }) => openFake(registry, scopeKey, tabId, name)))
    const { scopeKey } = streams[to % streams.length]!
    // Half of the time the options come from a stream's key, so that the options name a stream more often than by chance.
    const { tabId, name } = streams[by % streams.length]!
    const chosen = own ? { ...tabId !== undefined && { tabId }, name } : options
    const scope = streamKey(scopeKey).scope
    const expected = streams.map(stream => streamKey(stream.scopeKey).scope === scope &&
      (chosen?.tabId === undefined || stream.tabId === chosen.tabId) &&
      (chosen?.name === undefined || stream.name === chosen.name) &&
      ((chosen as SendOptions | undefined)?.except === undefined || stream.tabId !== (chosen as SendOptions).except))
    const count = await registry.send(scopeKey, 'text', chosen)
    const got = fakes.map(({ response }) => response.written === 'data: text\n\n')
    const untouched = fakes.every(({ response }, i) => got[i] || response.written === '')
    return untouched && JSON.stringify(got) === JSON.stringify(expected) && count === expected.filter(Boolean).length
  }), { ...seeded(import.meta.url), numRuns: isQuickRun ? 200 : 1_000 })
  t.pass()
})

const METHODS = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE']

/** Sends signals as Datastar does. */
async function ask (app: App, method: string, signals: unknown, path = '/tab'): Promise<{ status: number, json: any }> {
  const inQuery = method === 'GET' || method === 'DELETE'
  const response = await fetch(app.url(inQuery ? withSignals(path, signals) : path), {
    method, ...inQuery ? {} : { headers: { 'content-type': 'application/json' }, body: JSON.stringify(signals) }
  })
  return { status: response.status, json: await response.json() }
}

t.test('`request.tabId` is the tab id of the Datastar signal on any route, or undefined', async t => {
  for (const signal of ['tabId', 'other']) {
    const app = await buildApp(t, { signal })
    app.fastify.route({ method: METHODS, url: '/tab', handler: async request => ({ tabId: request.tabId ?? null }) })
    await app.listen()
    for (const method of METHODS) {
      t.strictSame(await ask(app, method, { [signal]: 'a', more: 1 }), { status: 200, json: { tabId: 'a' } }, method)
      t.strictSame(await ask(app, method, { more: 1 }), { status: 200, json: { tabId: null } }, method)
      for (const tabId of ['', 'x'.repeat(129), 1, {}]) {
        t.match(await ask(app, method, { [signal]: tabId }), { status: 400, json: { code: 'FST_ERR_OCTA_STAR_TAB_ID' } }, method)
      }
      t.match(await ask(app, method, ['a']), { status: 400, json: { code: 'FST_ERR_OCTA_STAR_SIGNALS' } }, method)
    }
    t.strictSame(await (await fetch(app.url('/tab'))).json(), { tabId: null })
  }
})

t.test('`request.tabId` is read with the option `tabId`, and only on requests whose handler reads it', async t => {
  let calls = 0
  const app = await buildApp(t, {
    tabId (request) {
      calls++
      return request.headers['x-tab'] as string | undefined
    }
  })
  app.fastify.route({ method: METHODS, url: '/tab', handler: async request => ({ tabId: request.tabId ?? null }) })
  app.fastify.route({ method: METHODS, url: '/other', handler: async request => ({ own: Object.hasOwn(request, 'tabId') }) })
  await app.listen()
  const get = async (path: string, headers = {}) => {
    const response = await fetch(app.url(path), { headers })
    return { status: response.status, json: await response.json() as object }
  }
  t.strictSame(await get('/other', { 'x-tab': 'x'.repeat(129) }), { status: 200, json: { own: false } })
  t.equal(calls, 0)
  t.strictSame(await get('/tab', { 'x-tab': 'a' }), { status: 200, json: { tabId: 'a' } })
  t.equal(calls, 1)
  t.strictSame(await get('/tab'), { status: 200, json: { tabId: null } })
  t.match(await get('/tab', { 'x-tab': 'x'.repeat(129) }), { status: 400, json: { code: 'FST_ERR_OCTA_STAR_TAB_ID' } })
})

t.test('on a route with `sse`, `request.tabId` is the tab id of the stream, also if validation removes unknown properties', async t => {
  const app = await buildApp(t)
  const nothing = { type: 'object', properties: {}, additionalProperties: false }
  app.fastify.get('/stream', { sse: true, schema: { querystring: nothing } }, async (request, reply) => {
    if (reply.sse === undefined) return { tabId: request.tabId ?? null, query: request.query }
    const stream = await reply.startStream('ann')
    await stream.send(`${request.tabId} ${stream.tabId}`)
  })
  app.fastify.post('/stream', { sse: true, schema: { body: nothing } }, async request => ({ tabId: request.tabId ?? null }))
  // A route may answer a request without the tab id.
  app.fastify.get('/unread', { sse: true }, async () => ({}))
  await app.listen()
  const client = await connect(app.url(withSignals('/stream', { tabId: 'a' })))
  await client.ended
  t.strictSame(client.events.map(({ data }) => data), ['a a'])
  for (const method of ['GET', 'POST']) {
    t.match(await ask(app, method, { tabId: 'a' }, '/stream'), { status: 200, json: { tabId: 'a' } }, method)
    t.match(await ask(app, method, {}, '/stream'), { status: 200, json: { tabId: null } }, method)
    t.match(await ask(app, method, { tabId: 1 }, '/stream'), { status: 400, json: { code: 'FST_ERR_OCTA_STAR_TAB_ID' } }, method)
  }
  t.strictSame(await ask(app, 'GET', { tabId: 1 }, '/unread'), { status: 200, json: {} })
})

t.test('a POST to any process reaches the stream of the tab that sent the POST, and the user\'s other tabs', async t => {
  const store = new MemoryStore()
  const apps: Reached[] = []
  for (const cluster of [memoryCluster(store), memoryCluster(store)]) {
    const app = await buildApp(t, { cluster })
    const streams = streamRoute(app)
    app.fastify.post('/save', async ({ tabId }) => {
      await app.fastify.streamRegistry.send('ann', 'saved', { tabId })
      await app.fastify.streamRegistry.send('ann', 'news', { except: tabId })
      return {}
    })
    await app.listen()
    apps.push({ ...app, streams, open: (scope, tabId) => connect(app.url(withSignals(`/stream/${scope}`, { tabId }))) })
  }
  const [here, there] = apps as [Reached, Reached]
  const clients = [await here.open('ann', 'a'), await there.open('ann', 'b'), await there.open('ann', 'c'), await there.open('bob', 'a')]
  t.equal((await ask(here, 'POST', { tabId: 'b' }, '/save')).status, 200)
  t.equal((await ask(there, 'POST', { tabId: 'b' }, '/save')).status, 200)
  t.strictSame(await dataOf([...here.streams, ...there.streams], clients), [['news', 'news'], ['saved', 'saved'], ['news', 'news'], []])
})

function request (path: string, version = '1.1'): string {
  return `GET ${path} HTTP/${version}\r\nhost: a\r\naccept: text/event-stream\r\n\r\n`
}

/** A socket on which the head of a response has arrived. `bytes` is everything so far. */
async function rawClient (t: Test, port: number, path: string, version?: string) {
  const socket = net.connect(port, '127.0.0.1')
  const pieces: Buffer[] = []
  let length = 0
  let tail = ''
  // Joins all pieces, so call it when everything has arrived. For the way there use `length` and `endsWith`.
  const bytes = () => pieces.length > 1 ? (pieces.splice(0, pieces.length, Buffer.concat(pieces)), pieces[0]!) : pieces[0] ?? Buffer.alloc(0)
  socket.on('error', () => {}).on('data', data => {
    pieces.push(data)
    length += data.length
    tail = (tail + data.subarray(-10).toString('latin1')).slice(-10)
  })
  t.teardown(() => socket.destroy())
  socket.write(request(path, version))
  while (!bytes().includes('\r\n\r\n')) await once(socket, 'data')
  return { socket, bytes, length: () => length, endsWith: (text: string) => tail.endsWith(text) }
}

/** Reads the first response of a connection, in chunks or with a length. Throws if the framing is wrong. */
function readResponse (bytes: Buffer): { body: string, rest: Buffer } {
  const end = bytes.indexOf('\r\n\r\n')
  const head = bytes.subarray(0, end).toString('latin1')
  if (!head.startsWith('HTTP/1.1 200 ')) throw new Error(`not a response: ${head.slice(0, 100)}`)
  let rest = bytes.subarray(end + 4)
  const length = /content-length: (\d+)/i.exec(head)?.[1]
  if (length !== undefined) return { body: rest.subarray(0, Number(length)).toString(), rest: rest.subarray(Number(length)) }
  const chunks: Buffer[] = []
  for (;;) {
    const lineEnd = rest.indexOf('\r\n')
    const line = rest.subarray(0, lineEnd).toString('latin1')
    if (!/^[0-9a-f]+$/.test(line)) throw new Error(`not the size of a chunk: ${line.slice(0, 100)}`)
    const size = parseInt(line, 16)
    const chunk = rest.subarray(lineEnd + 2, lineEnd + 2 + size)
    if (rest.subarray(lineEnd + 2 + size, lineEnd + 4 + size).toString() !== '\r\n') throw new Error('a chunk of another size')
    rest = rest.subarray(lineEnd + 4 + size)
    if (size === 0) return { body: Buffer.concat(chunks).toString(), rest }
    chunks.push(chunk)
  }
}
