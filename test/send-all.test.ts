// sendAll: takes any source of messages, awaits back-pressure, and closes the source as soon as the stream ends.
import { EventEmitter, on, once } from 'node:events'
import { createReadStream } from 'node:fs'
import { Readable } from 'node:stream'
import { setImmediate as turn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { MessageSource, Stream } from '../lib/index.ts'
import { buildApp, LEVELS, streamRoute, withSignals, type App } from './kit/app.ts'
import { connect, type Client } from './kit/client.ts'
import { openStream } from './kit/fake-stream.ts'
import { watchUnhandled } from './kit/unhandled.ts'

const path = withSignals('/stream/ann', { tabId: 'a' })

interface Sending {
  app: App
  client: Client
  stream: Stream
  /** The result or the error of the handler's sendAll. */
  outcome: Promise<unknown>
}

/** A live stream whose handler passes the source to sendAll, and returns when the source is done. */
async function sending (t: Test, source: (stream: Stream) => MessageSource, { errorsExpected = false } = {}): Promise<Sending> {
  const app = await buildApp(t, { errorsExpected })
  let settle: (outcome: unknown) => void = () => {}
  let stream: Stream | undefined
  const outcome = new Promise(resolve => { settle = resolve })
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    stream = await reply.startStream('ann')
    try {
      settle(await stream.sendAll(source(stream)))
    } catch (error) {
      settle(error)
      throw error
    }
  })
  await app.listen()
  const client = await connect(app.url('/stream'))
  return { app, client, stream: stream!, outcome }
}

const list = ['one', { event: 'two', data: { n: 2 } }, { data: 'three', id: 3 }]

const sources: Record<string, () => MessageSource> = {
  'an array': () => list,
  'an iterable': () => new Set(list),
  'a generator': function * () { yield * list },
  'an async generator': async function * () { yield * list },
  'an async iterable without return()': () => {
    const rest = [...list]
    return { [Symbol.asyncIterator]: () => ({ next: async () => rest.length > 0 ? { done: false, value: rest.shift()! } : { done: true, value: undefined } }) }
  },
  'a Readable': () => Readable.from(list)
}

for (const [name, source] of Object.entries(sources)) {
  t.test(`sendAll sends each message of ${name}, and resolves to their number`, async t => {
    const { client, outcome } = await sending(t, source)
    t.equal(await outcome, 3)
    t.equal(await client.ended, 'clean')
    t.strictSame(client.events, [{ event: 'message', data: 'one', id: undefined }, { event: 'two', data: '{"n":2}', id: undefined }, { event: 'message', data: 'three', id: '3' }])
  })
}

t.test('sendAll takes nothing more from its source while the client does not keep up', async t => {
  const { stream, response } = await openStream()
  let taken = 0
  const source = async function * () { for (; ; taken++) yield `item ${taken}` }
  response.frozen = true
  const sent = stream.sendAll(source())
  for (let turns = 0; turns < 10; turns++) await turn()
  t.equal(taken, 0, 'the first message waits, and the second message is not requested')
  response.thaw()
  response.frozen = true
  for (let turns = 0; turns < 10; turns++) await turn()
  t.equal(taken, 1)
  stream.close()
  await t.rejects(sent, { code: 'FST_ERR_OCTA_STAR_STREAM_CLOSED' })
})

t.test('with onSlowClient at \'end\', sendAll takes every message, and ends the stream as stalled beyond maxBufferedBytes', async t => {
  const { stream, response } = await openStream({ maxBufferedBytes: 1_000 })
  const news = new EventEmitter()
  async function * source () { for await (const [item] of on(news, 'item', { signal: stream.signal })) yield item as string }
  const sent = stream.sendAll(source(), { onSlowClient: 'end' })
  await turn()
  response.frozen = true
  for (let n = 1; n <= 5; n++) {
    news.emit('item', `item ${n} ${'x'.repeat(300)}`)
    await turn()
    t.equal(response.written.includes(`item ${n} `), n < 5, `item ${n}`)
  }
  await t.rejects(sent, { code: 'FST_ERR_OCTA_STAR_STREAM_CLOSED', reason: 'stalled' })
  t.equal(await stream.closed, 'stalled')
  t.equal(news.listenerCount('item'), 0)
})

t.test('with onSlowClient at \'end\', sendAll resolves when the source is done and the client has read what waited', async t => {
  const { stream, response } = await openStream()
  response.frozen = true
  let isDone = false
  const sent = stream.sendAll(['one', 'two', 'three'], { onSlowClient: 'end' })
  sent.then(() => { isDone = true })
  for (let turns = 0; turns < 10; turns++) await turn()
  t.match(response.written, /one[^]*two[^]*three/)
  t.notOk(isDone)
  response.thaw()
  t.equal(await sent, 3)
  t.equal(await stream.sendAll([], { onSlowClient: 'end' }), 0)
})

t.test('with onSlowClient at \'end\', an item that cannot be sent rejects sendAll at once, although the source is quiet', async t => {
  const { stream } = await openStream()
  let returned = 0
  const items: unknown[] = ['one', { data: 10n }]
  const source = {
    [Symbol.asyncIterator]: () => ({
      next: () => items.length > 0 ? Promise.resolve({ done: false, value: items.shift() }) : new Promise(() => {}),
      async return () { returned++; return { done: true, value: undefined } }
    })
  } as AsyncIterable<string>
  await t.rejects(stream.sendAll(source, { onSlowClient: 'end' }), { name: 'TypeError', message: /BigInt/ })
  t.equal(returned, 1)
  t.notOk(stream.closing)
})

for (const [options, message] of [
  [{ onSlowClient: 'drop' }, /'onSlowClient' must be 'wait' or 'end', got/],
  [{ onslowclient: 'end' }, /'onslowclient' must be left out: the only option is onSlowClient, got/]
] as const) {
  t.test(`sendAll refuses ${JSON.stringify(options)}, and the stream goes on`, async t => {
    const { stream } = await openStream()
    await t.rejects(stream.sendAll(['one'], options as never), { code: 'FST_ERR_OCTA_STAR_SEND_OPTION', message })
    t.notOk(stream.closing)
  })
}

const ends: Record<string, (sending: Sending) => unknown> = {
  'its client disconnects': ({ client }) => client.leave(),
  'the stream is replaced or evicted': ({ app }) => app.fastify.streamRegistry.evict('ann'),
  'the server closes': ({ app }) => app.fastify.close()
}

for (const [when, end] of Object.entries(ends)) {
  t.test(`a source that is quiet does not hold the handler up when ${when}: its return() is called at once`, async t => {
    let returned = 0
    const quiet: AsyncIterable<string> = {
      [Symbol.asyncIterator]: () => ({
        next: () => new Promise(() => {}),
        async return () {
          returned++
          return { done: true, value: undefined }
        }
      })
    }
    const all = await sending(t, () => quiet)
    const returnedAtAbort = once(all.stream.signal, 'abort').then(() => returned)
    await end(all)
    t.match(await all.outcome, { code: 'FST_ERR_OCTA_STAR_STREAM_CLOSED', reason: await all.stream.gone })
    t.equal(await returnedAtAbort, 1, 'as the signal aborts')
    t.equal(returned, 1, 'and only once')
  })

  t.test(`a Readable that is quiet is destroyed at once when ${when}`, async t => {
    const quiet = new Readable({ objectMode: true, read () {} })
    const all = await sending(t, () => quiet)
    const destroyedAtAbort = once(all.stream.signal, 'abort').then(() => quiet.destroyed)
    await end(all)
    t.match(await all.outcome, { code: 'FST_ERR_OCTA_STAR_STREAM_CLOSED', reason: await all.stream.gone })
    t.equal(await destroyedAtAbort, true, 'as the signal aborts')
  })
}

t.test('a source that is suspended at a yield has cleaned up before the stream is gone', async t => {
  const { stream, response } = await openStream()
  const steps: string[] = []
  const source = async function * () {
    try {
      yield 'item'
    } finally {
      await turn()
      steps.push('cleaned up')
    }
  }
  response.frozen = true
  const sent = stream.sendAll(source())
  const handled = sent.then(() => stream.handlerReturned(), error => stream.handlerThrew(error))
  stream.gone.then(() => steps.push('gone'))
  // Takes the first message, which waits for the client.
  for (let turns = 0; turns < 10; turns++) await turn()
  stream.close('evicted')
  await t.rejects(sent, { message: 'The stream has ended: evicted. This is a normal end. Do not catch this error in the handler' })
  await handled
  response.leave()
  await stream.gone
  await turn()
  t.strictSame(steps, ['cleaned up', 'gone'])
})

t.test('an emitter as a source: on() is closed when the stream ends, although no event ever comes', async t => {
  const emitter = new EventEmitter()
  const all = await sending(t, () => on(emitter, 'never') as AsyncIterable<never>)
  t.equal(emitter.listenerCount('never'), 1)
  all.client.leave()
  await all.stream.gone
  t.equal(emitter.listenerCount('never'), 0)
})

t.test('a stream that has ended takes nothing from a source, and closes the source', async t => {
  const { stream } = await openStream()
  stream.close()
  const asked: string[] = []
  const source = { [Symbol.asyncIterator]: () => ({ async next () { asked.push('next'); return { done: false, value: 'item' } }, async return () { asked.push('return'); return { done: true, value: undefined } } }) }
  await t.rejects(stream.sendAll(source as AsyncIterable<string>), { code: 'FST_ERR_OCTA_STAR_STREAM_CLOSED' })
  t.strictSame(asked, ['return'])
  const readable = Readable.from(['item'])
  await t.rejects(stream.sendAll(readable), { code: 'FST_ERR_OCTA_STAR_STREAM_CLOSED' })
  t.ok(readable.destroyed)
})

t.test('a Readable that fails to open after its stream has ended does not end the process', async t => {
  const { stream } = await openStream()
  stream.close()
  const readable = createReadStream('/a file that is missing', 'utf8')
  const closed = new Promise<void>(resolve => readable.on('close', resolve))
  await t.rejects(stream.sendAll(readable), { code: 'FST_ERR_OCTA_STAR_STREAM_CLOSED' })
  await closed
  t.match(readable.errored, { code: 'ENOENT' })
})

t.test('if a stream ends, an error of the cleanup of a source does not hide the end', async t => {
  const { stream, response } = await openStream()
  response.frozen = true
  const source = { [Symbol.asyncIterator]: () => ({ next: async () => ({ done: false, value: 'item' }), return: async () => { throw new Error('the cleanup failed') } }) }
  const sent = stream.sendAll(source as AsyncIterable<string>)
  for (let turns = 0; turns < 10; turns++) await turn()
  stream.close('evicted')
  await t.rejects(sent, { code: 'FST_ERR_OCTA_STAR_STREAM_CLOSED' })
})

for (const [name, source] of Object.entries({
  'a string': 'text', 'a message': { data: 1 }, 'a number': 7, null: null, undefined, 'a function': () => ['one'], 'an object with a pipe method': { pipe () {} }
})) {
  t.test(`${name} is refused as a source, and the stream goes on`, async t => {
    const app = await buildApp(t)
    const streams = streamRoute(app)
    await app.listen()
    const client = await connect(app.url(path))
    await t.rejects(streams[0]!.sendAll(source as never), { code: 'FST_ERR_OCTA_STAR_SOURCE', message: /^sendAll\(\) takes a Readable, an async iterable or an iterable of messages, got / })
    await streams[0]!.send('goes on')
    t.equal((await client.event(1)).data, 'goes on')
    t.equal(client.events.length, 1)
  })
}

for (const [name, end] of Object.entries({
  done: () => ({ done: true, value: undefined }),
  rejected: async () => { throw new Error('the source is dry') },
  thrown: () => { throw new Error('the source is dry') }
})) {
  t.test(`a source that has closed itself is not closed again: ${name}`, async t => {
    const { stream } = await openStream()
    const asked: string[] = []
    const source = {
      [Symbol.asyncIterator]: () => ({
        next: () => asked.push('next') < 3 ? { done: false, value: 'item' } : end(),
        return: () => new Promise(() => { asked.push('return') })
      })
    }
    const sent = stream.sendAll(source as unknown as AsyncIterable<string>)
    if (name === 'done') t.equal(await sent, 2)
    else await t.rejects(sent, { message: 'the source is dry' })
    t.strictSame(asked, ['next', 'next', 'next'])
  })
}

t.test('a source that throws fails the stream with its error, once', async t => {
  const { app, client, stream, outcome } = await sending(t, async function * () {
    yield 'one'
    throw new Error('the source is dry')
  }, { errorsExpected: true })
  t.match(await outcome, { message: 'the source is dry' })
  t.equal(await client.ended, 'broken')
  t.equal(await stream.gone, 'failed')
  t.match(client.events, [{ data: 'one' }])
  t.match(app.log.filter(line => line.level >= LEVELS.warn), [{ level: LEVELS.error, err: { message: 'the source is dry' }, reason: 'failed' }])
})

t.test('a Readable that fails fails the stream with its error', async t => {
  const readable = new Readable({ objectMode: true, read () { this.destroy(new Error('the source is dry')) } })
  const { stream, outcome } = await sending(t, () => readable, { errorsExpected: true })
  t.match(await outcome, { message: 'the source is dry' })
  t.equal(await stream.gone, 'failed')
})

t.test('an item of a source that cannot be sent rejects sendAll, and closes the source', async t => {
  const { stream } = await openStream()
  let isClosed = false
  const source = function * () {
    try {
      yield 'one'
      yield { data: 10n }
    } finally {
      isClosed = true
    }
  }
  await t.rejects(stream.sendAll(source()), { name: 'TypeError', message: /BigInt/ })
  t.ok(isClosed)
  t.notOk(stream.closing)
})

t.test('a send that nobody awaits, of an item that cannot be serialised: the process lives, the item is logged, and the stream goes on', async t => {
  const unhandled = watchUnhandled(t)
  const app = await buildApp(t)
  const news = new EventEmitter()
  const streams = streamRoute(app, '/stream/:scope', stream => {
    const onNews = (item: unknown) => { stream.send({ event: 'news', data: item }) }
    news.on('item', onNews)
    stream.onClose(() => news.off('item', onNews))
  })
  await app.listen()
  const client = await connect(app.url(path))
  const circular: { self?: unknown } = {}
  circular.self = circular
  for (const item of [10n, circular, () => {}, { toJSON () { throw new Error('a fault in toJSON') } }]) news.emit('item', item)
  news.emit('item', { fine: true })
  t.equal((await client.event(1)).data, '{"fine":true}')
  for (let turns = 0; turns < 10; turns++) await turn()
  t.strictSame(unhandled, [])
  t.equal(client.events.length, 1)
  const lines = app.log.filter(line => line.level >= LEVELS.warn)
  t.match(lines, Array.from({ length: 4 }, () => ({ level: LEVELS.warn, msg: 'a message could not be sent on GET /stream/:scope', streamId: streams[0]!.id, route: 'GET /stream/:scope' })))
  t.match(lines.map(line => (line.err as Error).message), [/BigInt/, /circular/, /serializer/, /a fault in toJSON/])
})

t.test('a sendAll that nobody awaits does not end the process when the client disconnects', async t => {
  const app = await buildApp(t)
  const closed = new Promise(resolve => {
    app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
      const stream = await reply.startStream('ann')
      stream.keepAlive()
      stream.sendAll(on(new EventEmitter(), 'never') as never)
      resolve(stream.closed)
    })
  })
  await app.listen()
  const client = await connect(`http://127.0.0.1:${app.port()}/stream`)
  client.leave()
  t.equal(await closed, 'disconnected')
  await turn()
})

t.test('a web stream as a source: the messages arrive, and a quiet source is cancelled when the stream ends', async t => {
  let cancelled = false
  const source = () => new ReadableStream<string>({
    start (controller) { controller.enqueue('1') },
    cancel () { cancelled = true }
  })
  const { client, stream, outcome } = await sending(t, source)
  t.equal((await client.event(1)).data, '1')
  client.leave()
  t.match(await outcome, { code: 'FST_ERR_OCTA_STAR_STREAM_CLOSED' })
  await stream.gone
  t.equal(cancelled, true)
})

t.test('a web stream as a source: sendAll resolves when the source is done', async t => {
  const source = new ReadableStream<string>({
    start (controller) {
      controller.enqueue('1')
      controller.enqueue('2')
      controller.close()
    }
  })
  const { client, outcome } = await sending(t, () => source)
  t.equal(await outcome, 2)
  await client.ended
  t.strictSame(client.events.map(({ data }) => data), ['1', '2'])
  t.equal(source.locked, false, 'the application may use its source again')
})

t.test('a web stream with an iterator of its own is read by that iterator', async t => {
  const source = Object.assign(new ReadableStream<string>(), { async * [Symbol.asyncIterator] () { yield 'own' } })
  const { client, outcome } = await sending(t, () => source)
  t.equal(await outcome, 1)
  t.equal((await client.event(1)).data, 'own')
})

t.test('a web stream that fails fails the stream with its error', async t => {
  const { client, outcome } = await sending(t, () => new ReadableStream<string>({ pull () { throw new Error('a fault') } }), { errorsExpected: true })
  t.match(await outcome, { message: 'a fault' })
  t.equal(await client.ended, 'broken')
})
