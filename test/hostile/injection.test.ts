// Hostile content in every field, through send and through the Datastar adapter: real parsers see exactly the events that were sent.
import assert from 'node:assert/strict'
import { createParser, type EventSourceMessage } from 'eventsource-parser'
import fc from 'fast-check'
import t from 'tap'
import { datastar, type DatastarStream } from '../../lib/datastar.ts'
import type { Stream, StreamMessage } from '../../lib/index.ts'
import { buildApp } from '../kit/app.ts'
import { browserOptions, launch } from '../kit/chromium.ts'
import { openStream } from '../kit/fake-stream.ts'
import { repeatWith, seed, seeded } from '../kit/seed.ts'

const RUNS = 5_000

// Stops only a test that hangs: a run takes a few milliseconds.
t.setTimeout(300_000 + RUNS * 200)

// Content that could end a line, an event or the stream, that could name a field, or that could be trimmed or lost on the way.
const PIECES = [
  '\r', '\n', '\r\n', '\n\n', '\r\r', '\0', '\u2028', '\u2029', '\u0085', '\u000b', '\u000c', '\ufeff', '\ud800', '\udfff', '\ud83d\ude00', ' ', '\t', ':', ': ', 'data', 'data:', 'data: x',
  'event: x', 'id: 1', 'retry: 1', '\n\nevent: evil\ndata: x\n\n', '\r\revent: evil\rdata: x\r\r', 'octa-star-closed', 'octa-star-closed:replaced', 'a', 'elements ', 'mode remove', 'selector body', '</script>'
]
const hostile = fc.oneof(
  { weight: 6, arbitrary: fc.array(fc.constantFrom(...PIECES), { maxLength: 6 }).map(pieces => pieces.join('')) },
  { weight: 2, arbitrary: fc.string({ unit: 'binary' }) },
  { weight: 1, arbitrary: fc.constantFrom('', 'x'.repeat(100_000), '\n'.repeat(1_000)) }
)
const noLineEnd = hostile.map(text => text.replaceAll(/[\r\n]/g, ''))
const retry = fc.nat({ max: 2 ** 31 - 1 })
const message: fc.Arbitrary<StreamMessage> = fc.record({ data: hostile, event: noLineEnd, id: noLineEnd.filter(isId), retry }, { requiredKeys: [] }).filter(fields => Object.keys(fields).length > 0)

function isId (id: string): boolean {
  return !/[^\t -~]/.test(id) && !/^[ \t]*octa-star-closed/.test(id)
}

/** UTF-8 cannot encode lone surrogates. Each becomes U+FFFD, on the wire and in the browser. */
const onTheWire = (text: string): string => Buffer.from(text).toString()
/** All changes that the format makes to data: CR and CRLF end a line as LF does, and each line end arrives as LF. */
const received = (text: string): string => onTheWire(text).replaceAll(/\r\n?/g, '\n')

/** The events that a browser dispatches. See https://html.spec.whatwg.org/#event-stream-interpretation */
interface Seen { event: string, data: string, id: string }

function expected (messages: StreamMessage[]): Seen[] {
  const seen: Seen[] = []
  let lastEventId = ''
  for (const { data, event, id } of messages) {
    if (id !== undefined) lastEventId = onTheWire(String(id))
    // An id without an event dispatches nothing. An event without data is sent with empty data. An empty event is a message.
    if (data !== undefined || event !== undefined) seen.push({ event: onTheWire(event ?? '') || 'message', data: received(String(data ?? '')), id: lastEventId })
  }
  return seen
}

/** The events that eventsource-parser reads from `text`, split into as many pieces as there are cuts. */
function parse (text: string, cuts: number[] = []): EventSourceMessage[] {
  const events: EventSourceMessage[] = []
  const parser = createParser({ onEvent: event => events.push(event), onError: error => { throw error } })
  const wire = onTheWire(text)
  const at = [0, ...cuts.map(cut => cut % (wire.length + 1)).sort((a, b) => a - b), wire.length]
  for (let i = 1; i < at.length; i++) parser.feed(wire.slice(at[i - 1], at[i]))
  return events
}

async function written (send: (stream: Stream) => unknown): Promise<string> {
  const { stream, response } = await openStream()
  await send(stream)
  return response.written
}

type Patch = (stream: DatastarStream) => Promise<void>
interface Call { patch: Patch, event: string, options: Record<string, string>, id?: string }

const text = hostile.filter(text => text.trim() !== '')
const mode = fc.constantFrom('inner', 'replace', 'prepend', 'append', 'before', 'after')
const eventId = noLineEnd.filter(id => id !== '' && isId(id))
const scriptTag = (attributes: Record<string, string>, script: string) => `<script${Object.entries(attributes).map(([name, value]) => ` ${name}="${value}"`).join('')} data-effect="el.remove()">${script}</script>`
/** Each method of the adapter with hostile arguments, and the options that a Datastar client must find in its event. */
const calls: fc.Arbitrary<Call> = fc.oneof(
  fc.record({ elements: text, selector: text, mode, eventId }).map(({ elements, ...rest }): Call => ({
    patch: stream => stream.patchElements(elements, rest as never), event: 'datastar-patch-elements', options: { selector: rest.selector, mode: rest.mode, elements }, id: rest.eventId
  })),
  text.map((elements): Call => ({ patch: stream => stream.patchElements(elements), event: 'datastar-patch-elements', options: { elements } })),
  text.map((selector): Call => ({ patch: stream => stream.removeElements(selector), event: 'datastar-patch-elements', options: { selector, mode: 'remove' } })),
  text.map((signals): Call => ({ patch: stream => stream.patchSignals(signals, { onlyIfMissing: true }), event: 'datastar-patch-signals', options: { onlyIfMissing: 'true', signals } })),
  // In JSON, line ends and lone surrogates are escaped. The SDK drops `__proto__`.
  fc.array(hostile, { minLength: 1, maxLength: 3 }).map((names): Call => ({
    patch: stream => stream.removeSignals(names), event: 'datastar-patch-signals', options: { signals: JSON.stringify(Object.fromEntries(names.map(name => [name, null]))) }
  })),
  fc.tuple(hostile, fc.dictionary(fc.constantFrom('type', 'nonce'), hostile)).map(([script, attributes]): Call => ({
    patch: stream => stream.executeScript(script, { attributes }), event: 'datastar-patch-elements', options: { mode: 'append', selector: 'body', elements: scriptTag(attributes, script) }
  }))
)

/** Reads an event as the Datastar client does: the first word of a line names an option, and lines with the same name form one value. */
function optionsOf (data: string): Record<string, string> {
  const options: Record<string, string[]> = {}
  for (const line of data.split('\n')) {
    const space = line.indexOf(' ')
    ;(options[line.slice(0, space)] ??= []).push(line.slice(space + 1))
  }
  return Object.fromEntries(Object.entries(options).map(([name, lines]) => [name, lines.join('\n')]))
}

const mapValues = (options: Record<string, string>) => Object.fromEntries(Object.entries(options).map(([name, value]) => [name, received(value)]))

t.test('with send eventsource-parser sees exactly the events that were sent, however the stream is cut into pieces', async t => {
  await fc.assert(fc.asyncProperty(fc.array(message, { maxLength: 4 }), fc.array(fc.nat(), { maxLength: 6 }), async (messages, cuts) => {
    const seen = parse(await written(async stream => { for (const message of messages) await stream.send(message) }), cuts)
    const sent = messages.filter(({ data, event }) => data !== undefined || event !== undefined)
    assert.deepEqual(seen.map(({ event, data, id }) => ({ event: event || 'message', data, id })), expected(sent).map(({ event, data }, i) => ({ event, data, id: sent[i]!.id === undefined ? undefined : onTheWire(String(sent[i]!.id)) })))
  }), { ...seeded(import.meta.url), numRuns: RUNS })
  t.pass()
})

t.test('a line end in `event` or `id`, NUL in `id`, and a `retry` that is not a whole number are refused everywhere, and nothing of the event is sent', async t => {
  const withLineEnd = fc.tuple(noLineEnd, fc.constantFrom('\r', '\n', '\r\n', '\n\nevent: x'), noLineEnd).map(parts => parts.join(''))
  const bad = fc.oneof(
    fc.record({ event: withLineEnd, data: hostile }), fc.record({ id: withLineEnd, data: hostile }),
    fc.record({ id: fc.tuple(noLineEnd, noLineEnd).map(parts => parts.join('\0')), data: hostile }),
    fc.record({ retry: fc.oneof(hostile, fc.double().filter(number => !(Number.isSafeInteger(number) && number >= 0))) as fc.Arbitrary<any>, data: hostile })
  ) as fc.Arbitrary<StreamMessage>
  await fc.assert(fc.asyncProperty(bad, async message => {
    const text = await written(stream => assert.rejects(stream.send(message), { code: 'FST_ERR_OCTA_STAR_EVENT' }))
    assert.equal(text, '')
  }), { ...seeded(import.meta.url), numRuns: RUNS })
  await fc.assert(fc.asyncProperty(withLineEnd, async eventId => {
    const text = await written(stream => assert.rejects(datastar(stream).patchElements('<p id="a">', { eventId }), { code: 'FST_ERR_OCTA_STAR_EVENT' }))
    assert.equal(text, '')
  }), { ...seeded(import.meta.url), numRuns: 1_000 })
  t.pass()
})

t.test('an id that a header cannot carry is refused, because the server would answer that id with a 400, and the client would stop for good', async t => {
  for (const character of ['\u0001', '\u000b', '\u001f', '\u007f']) {
    await t.rejects((await openStream()).stream.send({ id: `a${character}b`, data: 'x' }), { code: 'FST_ERR_OCTA_STAR_EVENT' }, JSON.stringify(character))
  }
})

t.test('an id that a client would send back as a farewell is refused, even between spaces and tabs, which a header loses', async t => {
  for (const id of ['octa-star-closed', 'octa-star-closed:replaced', ' octa-star-closed:replaced', '\tocta-star-closed:evicted ', ' \t octa-star-closed:replaced']) {
    await t.rejects((await openStream()).stream.send({ id, data: 'x' }), { code: 'FST_ERR_OCTA_STAR_EVENT' }, JSON.stringify(id))
  }
})

t.test('with the Datastar adapter each method makes one event, with exactly the options of the call', async t => {
  await fc.assert(fc.asyncProperty(calls, async ({ patch, event, options, id }) => {
    const seen = parse(await written(stream => patch(datastar(stream))))
    assert.equal(seen.length, 1)
    assert.equal(seen[0]!.event, event)
    assert.equal(seen[0]!.id, id === undefined ? undefined : onTheWire(id))
    assert.deepEqual(optionsOf(seen[0]!.data), mapValues(options))
  }), { ...seeded(import.meta.url), numRuns: RUNS })
  t.pass()
})

t.test('in Chromium an EventSource dispatches exactly the events that were sent with send and with the Datastar adapter', browserOptions, async t => {
  const pairs = PIECES.flatMap(a => PIECES.map(b => `a${a}b${b}`))
  const names = pairs.filter(pair => !/[\r\n]/.test(pair))
  const messages: StreamMessage[] = [
    ...PIECES.map(data => ({ data })), ...pairs.map(data => ({ data })), ...names.map(event => ({ event, data: 'x' })), ...names.filter(isId).map(id => ({ id, data: 'x' })),
    ...fc.sample(message, { numRuns: 1_000, seed }).map(({ retry, ...message }) => ({ data: '', ...message }))
  ]
  const patches = fc.sample(calls, { numRuns: 1_000, seed })

  const app = await buildApp(t, { fastify: { forceCloseConnections: true } })
  app.fastify.get('/', async (_request, reply) => reply.type('text/html').send('<!doctype html><link rel="icon" href="data:,">'))
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    const stream = await reply.startStream('ann')
    for (const message of messages) await stream.send(message)
    for (const { patch } of patches) await patch(datastar(stream))
    await stream.send({ event: 'the end' })
    await stream.closed
  })
  await app.listen()
  const { newTab, errors } = await launch(t)
  const tab = await newTab()
  await tab.goto(app.url('/'))
  const types = [...new Set([...expected(messages).map(({ event }) => event), ...patches.map(({ event }) => event)])]
  const seen = await tab.evaluate(types => new Promise<Seen[]>((resolve, reject) => {
    const seen: Seen[] = []
    const source = new (globalThis as any).EventSource('/stream')
    for (const type of types) source.addEventListener(type, (event: any) => { seen.push({ event: event.type, data: event.data, id: event.lastEventId }) })
    source.addEventListener('the end', () => {
      source.close()
      resolve(seen)
    })
    source.onerror = () => reject(new Error('the stream broke'))
  }), types)

  const wanted = expected(messages)
  const repeat = repeatWith(import.meta.url)
  t.equal(seen.length, wanted.length + patches.length, repeat)
  t.strictSame(seen.slice(0, wanted.length), wanted, repeat)
  t.strictSame(seen.slice(wanted.length).map(({ event, data }) => ({ event, options: optionsOf(data) })), patches.map(({ event, options }) => ({ event, options: mapValues(options) })), repeat)
  t.strictSame(errors, [])
})

t.test('Chromium reconnects with any id that was sent, and is not told to stop', browserOptions, async t => {
  const ids = ['', ...PIECES, ...PIECES.map(piece => `a${piece}b`), ...PIECES.map(piece => ` ${piece} `), 'x'.repeat(8_000)].filter(id => !/[\r\n]/.test(id) && isId(id))
  const app = await buildApp(t, { fastify: { forceCloseConnections: true } })
  const cameBackWith: string[] = []
  app.fastify.get('/', async (_request, reply) => reply.type('text/html').send('<!doctype html><link rel="icon" href="data:,">'))
  app.fastify.get('/stream', { sse: 'only' }, async (request, reply) => {
    cameBackWith.push(Buffer.from(String(request.headers['last-event-id'] ?? ''), 'latin1').toString())
    const stream = await reply.startStream('ann')
    const next = ids[cameBackWith.length - 1]
    await stream.send(next === undefined ? { event: 'the end' } : { id: next, retry: 0, data: 'x' })
    if (next === undefined) await stream.closed
  })
  await app.listen()
  const { newTab } = await launch(t)
  const tab = await newTab()
  await tab.goto(app.url('/'))
  const ended = await tab.evaluate(() => new Promise<string>(resolve => {
    const source = new (globalThis as any).EventSource('/stream')
    source.addEventListener('the end', () => {
      source.close()
      resolve('it came to the end')
    })
    source.onerror = () => { if (source.readyState === 2) resolve('it was told to stop') }
  }))
  t.equal(ended, 'it came to the end', `after ${JSON.stringify(ids[cameBackWith.length - 1])}`)
  t.strictSame(cameBackWith.slice(1), ids.map(id => onTheWire(id).replaceAll(/^[ \t]+|[ \t]+$/g, '')).slice(0, cameBackWith.length - 1))
})
