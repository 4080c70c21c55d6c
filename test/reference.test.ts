// docs/api.md, docs/options.md and docs/errors.md say what the types and the code have, and no more. Each example on these pages is run.
import diagnostics from 'node:diagnostics_channel'
import { EventEmitter, on, once } from 'node:events'
import Fastify, { type FastifyInstance, type FastifyReply } from 'fastify'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import octaStarStreams, * as lib from '../lib/index.ts'
import * as errors from '../lib/errors.ts'
import { resolveOptions, defaults } from '../lib/options.ts'
import { defaults as redisDefaults, redisCluster } from '../lib/redis/index.ts'
import { buildApp, streamsOf, withSignals, type App } from './kit/app.ts'
import { connect, type Client } from './kit/client.ts'
import { declarationsIn, entryPoints, exportsOf, signatures, type Declaration, type Member } from './kit/declarations.ts'
import { blocksOf, read, runBlock, type Block } from './kit/document.ts'
import { redisOptions, redisServer } from './kit/redis.ts'

const API = 'docs/api.md'
const OPTIONS = 'docs/options.md'
const ERRORS = 'docs/errors.md'

interface Section { readonly heading: string, readonly level: number, readonly text: string }

/** The sections of a page: each heading, and the text up to the next heading. */
function sectionsOf (file: string): Section[] {
  const text = read(file).replaceAll(/^```.*?^```$/gms, block => block.replaceAll(/^#/gm, ' #'))
  return [...text.matchAll(/^(#+) (.+)\n((?:(?!#+ ).*\n?)*)/gm)].map(([, marks, heading, body]) => ({ heading: heading!, level: marks!.length, text: body! }))
}

/** What a heading in code font names, such as `stream.send(message)`: `stream.send`, with the parameters. */
function nameIn ({ heading }: Section): { name: string, parameters: string[] } | undefined {
  const code = /^`(.+)`$/.exec(heading)?.[1]
  if (code === undefined) return undefined
  const [, name, list] = /^([^(]+)(?:\((.*)\))?$/.exec(code)!
  return { name: name!, parameters: list === undefined || list === '' ? [] : list.split(', ') }
}

/** The names in code font in column `number` of the tables in `text`. */
function column (text: string, number: number): string[] {
  const rows = text.split('\n').filter(line => line.startsWith('| '))
  return rows.flatMap(row => [...row.split(' | ')[number - 1]!.matchAll(/`([^`]+)`/g)].map(([, name]) => name!))
}

const declared = declarationsIn('types/stream.ts', 'types/index.ts', 'types/cluster.ts', 'lib/diagnostics.ts', 'lib/redis/index.ts', 'lib/datastar.ts', 'lib/registry/stream-key.ts')
const declaration = (name: string): Declaration => {
  const found = declared.get(name)
  if (found === undefined) throw new Error(`the types have no ${name}`)
  return found
}

/** The interfaces whose members have headings, by the first word of these headings. */
const PREFIXES = { reply: 'FastifyReply', request: 'FastifyRequest', fastify: 'FastifyInstance', stream: 'Stream', streamRegistry: 'StreamRegistry', holder: 'Holder' }

const api = sectionsOf(API)

/** The members of the interfaces in {@link PREFIXES} by the name in a heading, for example `stream.send`. A stream is a holder. */
const members = new Map<string, Member>(Object.entries(PREFIXES).flatMap(([prefix, name]) => {
  const inherited = name === 'Stream' ? [...declaration('Holder').members] : []
  return [...inherited, ...declaration(name).members].map(([member, details]) => [`${prefix}.${member}`, details] as const)
}))

t.test('each member of the public interfaces has a heading in the page of the API, with its parameters, its signature and its errors', async t => {
  t.ok(members.size > 30)
  for (const [name, member] of members) {
    const section = api.find(section => nameIn(section)?.name === name)
    if (section === undefined) {
      t.fail(`docs/api.md has no heading for ${name}`)
      continue
    }
    t.strictSame(nameIn(section)!.parameters, member.parameters, `${name}: its parameters`)
    t.equal(signatures(section.text).member, member.signature, `${name}: its signature`)
    for (const code of member.codes) t.ok(section.text.includes(`errors.md#${code.toLowerCase()}`), `${name}: links ${code}`)
  }
})

const channels = new Map<string, string>([...declared.values()].flatMap(({ name, comment }) => [...comment.matchAll(/`(octa-star:[\w:]+)`/g)].map(([, channel]) => [channel!, name])))

t.test('each heading of the page of the API that is in code font names something that exists', async t => {
  const named = api.flatMap(section => nameIn(section) ?? [])
  for (const { name } of named) {
    const exists = members.has(name) || declared.has(name) || channels.has(name) || entryPoints.includes(name) || ['datastar', 'readSignals', 'streamKey'].includes(name)
    t.ok(exists, `${name} exists`)
  }
  t.equal(new Set(named.map(({ name }) => name)).size, named.length, 'no name has two headings')
})

t.test('each interface and type that the page of the API shows is as in the types, and the page shows each that is passed or returned', async t => {
  const shown = api.flatMap(({ text }) => [...signatures(text).declarations.keys()])
  const expected = ['CloseReason', 'MessageSource', 'MessageTarget', 'ScopeKey', 'SendAllOptions', 'SendOptions', 'StartStreamOptions', 'StreamInfo', 'StreamKey', 'StreamMessage', ...channels.values()]
  t.strictSame([...new Set(shown)].sort(), [...new Set(expected)].sort())
  for (const { heading, text } of api) {
    for (const [name, shown] of signatures(text).declarations) t.equal(shown, declaration(name).signature, `${name}, under ${heading}`)
  }
})

t.test('each channel of diagnostics has a heading, with the event of the channel', async t => {
  const source = read('lib/diagnostics.ts')
  t.strictSame([...channels.keys()].sort(), [...source.matchAll(/channel\('(.+)'\)/g)].map(([, channel]) => channel).sort())
  for (const [channel, event] of channels) {
    const section = api.find(section => nameIn(section)?.name === channel)
    t.ok(section !== undefined && signatures(section.text).declarations.has(event), `${channel} has the event ${event}`)
  }
})

t.test('the page of the API names every export of the entry points, and no other export', async t => {
  const shown = api.flatMap(({ text }) => [...signatures(text).declarations.keys()])
  const headings = api.flatMap(section => nameIn(section)?.name ?? [])
  const part = (heading: string) => api.find(section => section.heading === heading)!.text
  const rows = [...column(part('Other entry points'), 2), ...column(part('Types'), 1)]
  const exported = entryPoints.flatMap(exportsOf)
  t.strictSame(exported.filter(name => ![...shown, ...headings, ...rows].includes(name)), [], 'named')
  t.strictSame([...shown, ...rows].filter(name => !exported.includes(name)), [], 'exported')
  t.strictSame(column(part('Other entry points'), 1).filter(name => !entryPoints.includes(name)), [], 'entry points')
})

/** A default as the pages write the default. */
const written = (value: unknown) => typeof value === 'string' ? `\`'${value}'\`` : `\`${String(value)}\``

t.test('each option of the plugin and of redisCluster has a heading and a row, in the order of the types, with its limits and its default', async t => {
  const sections = sectionsOf(OPTIONS)
  const redisAt = sections.findIndex(section => nameIn(section)?.name === 'octa-star-streams/redis')
  for (const [name, all, parts, intro] of [
    ['OctaStarStreamsOptions', defaults, sections.slice(0, redisAt), sections[0]!],
    ['RedisClusterOptions', redisDefaults, sections.slice(redisAt + 1), sections[redisAt]!]
  ] as const) {
    const { members } = declaration(name)
    t.strictSame(parts.flatMap(section => nameIn(section)?.name ?? []), [...members.keys()], `${name}: the headings`)
    t.strictSame(column(intro.text, 1), [...members.keys()], `${name}: the rows`)
    for (const [option, { isOptional, codes }] of members) {
      const { text } = parts.find(section => nameIn(section)?.name === option)!
      const row = intro.text.split('\n').find(line => line.startsWith(`| [\`${option}\`](#${option.toLowerCase()}) |`)) ?? ''
      const value = (all as Record<string, unknown>)[option]
      const ending = option === 'log' ? 'Fastify\'s' : !isOptional ? 'required' : value === undefined ? 'none' : written(value)
      t.ok(row.endsWith(`| ${ending} |`), `${option}: the default in the table`)
      const sentence = option === 'log' ? 'Default: the logger of' : !isOptional ? 'Required.' : value === undefined ? 'Default: none' : `Default: ${written(value)}.`
      t.ok(text.replaceAll('\n', ' ').includes(sentence), `${option}: the default in the section`)
      for (const limit of limitsOf(name, option)) {
        const whole = new RegExp(`(?<!\\w)${limit}(?!\\w)`)
        t.ok(whole.test(row) && whole.test(text), `${option}: ${limit}`)
      }
      for (const code of codes.filter(code => !text.includes(`errors.md#${code.toLowerCase()}`))) t.equal(code, 'FST_ERR_OCTA_STAR_REDIS_VERSION', option)
    }
  }
})

/** The numbers and words that the error for a wrong value of an option names as limits. */
function limitsOf (name: string, option: string): string[] {
  const wrong = Symbol('wrong')
  let message = ''
  try {
    if (name === 'RedisClusterOptions') redisCluster({ redis: new Redis({ lazyConnect: true }), [option]: wrong } as never)
    else resolveOptions({ [option]: wrong } as never)
  } catch (error) {
    message = (error as Error).message
  }
  const [, expected = ''] = / must be (.+), got a symbol/.exec(message) ?? []
  return expected.match(/\b\d+\b|\bInfinity\b|'[a-z-]+'|ioredis|iovalkey|braces|spaces/g) ?? []
}

type FastifyError = Error & { statusCode?: number }

/** Each error of lib/errors.ts, made without values for the placeholders of the message. */
const codes: Array<[code: string, error: FastifyError]> = [
  ...Object.entries(errors).filter(([name]) => name.startsWith('FST_ERR')).map(([name, Type]): [string, FastifyError] => [name, new (Type as unknown as new () => FastifyError)()]),
  ['FST_ERR_OCTA_STAR_STREAM_CLOSED', errors.streamClosed('%s' as lib.CloseReason)]
]

t.test('each error has a heading, in the order of lib/errors.ts, with its status and its message', async t => {
  const sections = sectionsOf(ERRORS)
  const source = read('lib/errors.ts')
  const order = codes.map(([code]) => code).sort((a, b) => source.indexOf(`'${a}'`) - source.indexOf(`'${b}'`))
  t.strictSame(sections.flatMap(section => nameIn(section)?.name ?? []), order)
  for (const [code, { statusCode, message }] of codes) {
    const { text } = sections.find(section => nameIn(section)?.name === code)!
    t.equal(Number(/^Status: (\d+)[.,]/m.exec(text)?.[1]), statusCode, `${code}: its status`)
    const template = message.split(/%[sd]/).map(part => part.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('.+')
    t.match(/```text\n(.+)\n```/.exec(text)?.[1] ?? '', new RegExp(`^${template}$`), `${code}: its message`)
    t.match(text, /^Status: .*From: `/m, `${code}: where the error comes from`)
  }
})

// From here on: the examples.

const all = [API, OPTIONS, ERRORS].flatMap(file => blocksOf(file).filter(({ language }) => language === 'js').map(block => ({ ...block, file })))
const tested = new Set<Block>()

function block (heading: string, file = API, nth = 0): string {
  const found = all.filter(block => block.heading === heading && block.file === file)[nth]
  if (found === undefined) throw new Error(`${file} has no block number ${nth} under '${heading}'`)
  tested.add(found)
  return found.code
}

const modules: Record<string, () => Promise<object>> = {
  'octa-star-streams': async () => lib,
  'octa-star-streams/datastar': () => import('../lib/datastar.ts'),
  'octa-star-streams/redis': () => import('../lib/redis/index.ts'),
  'node:diagnostics_channel': () => import('node:diagnostics_channel')
}

function run (code: string, scope: Record<string, unknown>, ...returns: string[]): Promise<any> {
  return runBlock(code, name => modules[name]!(), scope, ...returns)
}

/** An app with a stream that a client has opened at `/`, in the tab `tab-1`. The handler has not returned until `finish` is called. */
async function live (t: Test, options: lib.OctaStarStreamsOptions & { errorsExpected?: boolean } = {}): Promise<{ app: App, fastify: FastifyInstance, stream: lib.Stream, client: Client, finish: () => void, connect: () => Promise<Client> }> {
  const app = await buildApp(t, options)
  const streams: lib.Stream[] = []
  let finish = () => {}
  const finished = new Promise<void>(resolve => { finish = resolve })
  app.fastify.get('/', { sse: 'only' }, async (_request, reply) => {
    const stream = await reply.startStream('ann')
    streams.push(stream)
    stream.keepAlive()
    await Promise.race([finished, once(stream.signal, 'abort')])
  })
  await app.listen()
  const open = () => connect(app.url(withSignals('/', { tabId: 'tab-1' })), { headers: { 'last-event-id': '6' } })
  const client = await open()
  return { app, fastify: app.fastify, stream: streams[0]!, client, finish, connect: open }
}

t.test('declare a stream route', async t => {
  const app = await buildApp(t)
  await run(block('Declare a stream route'), { fastify: app.fastify })
  await app.listen()
  const client = await connect(app.url('/orders'))
  t.equal(await client.ended, 'clean')
  t.strictSame(client.events.map(({ data }) => data), ['hello'])
})

t.test('the values of the route option `sse` decide by the Accept header whether startStream works', async t => {
  const { fastify } = await buildApp(t)
  const results: Record<string, string[]> = {}
  const kinds = { only: 'only', dual: 'dual', manual: 'manual', true: true, object: { heartbeat: false }, 'object with kind': { kind: 'only', heartbeat: false } } as const
  for (const [name, sse] of Object.entries(kinds)) {
    fastify.get(`/${name}`, { sse }, async (_request, reply) => {
      if (reply.sse === undefined) return 'no stream'
      await (await reply.startStream('ann')).send('stream')
    })
  }
  for (const name of Object.keys(kinds)) {
    results[name] = []
    for (const accept of ['text/event-stream', '*/*', undefined, 'application/json']) {
      const { statusCode, body } = await fastify.inject({ url: `/${encodeURIComponent(name)}`, headers: accept === undefined ? {} : { accept } })
      results[name].push(statusCode === 406 ? '406' : body.includes('data: stream') ? 'stream' : body)
    }
  }
  const strict = ['stream', 'no stream', 'no stream', 'no stream']
  const lenient = ['stream', 'stream', 'stream', '406']
  t.strictSame(results, { only: lenient, dual: strict, manual: ['stream', 'stream', 'stream', 'stream'], true: strict, object: strict, 'object with kind': lenient })
})

t.test('one route in two formats, by the Accept header or by the body', async t => {
  const app = await buildApp(t)
  await run(block('One route, two formats'), { fastify: app.fastify })
  await run(block('The body decides'), { fastify: app.fastify })
  await app.listen()
  const price = await connect(app.url('/price'))
  t.equal(await price.ended, 'clean')
  t.equal(price.events[0]!.data, '{"price":12}')
  t.match(await (await fetch(app.url('/price'))).json(), { price: 12 })
  const ask = (body: string) => connect(app.url('/chat'), { method: 'POST', headers: { 'content-type': 'application/json' }, body })
  for (const [body, text] of [['{"stream":true}', 'data: hello\n\n'], ['{}', '{"text":"hello"}']] as const) {
    const client = await ask(body)
    t.equal(await client.ended, 'clean')
    t.equal(client.text.trimStart(), text)
  }
})

t.test('`reply.sse` beside a stream does what the page says', async t => {
  const app = await buildApp(t)
  const log: unknown[] = []
  const routes: Record<string, (reply: FastifyReply) => Promise<void>> = {
    async before (reply) {
      await reply.sse.send({ data: 'raw' })
      await reply.startStream('ann').catch(error => { log.push(error.code) })
    },
    async after (reply) {
      await reply.startStream('ann')
      await reply.sse.send({ data: 'raw' })
    },
    async close (reply) {
      const stream = await reply.startStream('ann')
      stream.onClose(reason => { log.push(reason) })
      reply.sse.close()
      await stream.closed
    },
    async keepAlive (reply) {
      const stream = await reply.startStream('ann')
      stream.onClose(reason => { log.push(reason) })
      reply.sse.keepAlive()
    },
    async onClose (reply) {
      await reply.startStream('ann')
      reply.sse.onClose(() => { log.push('called') })
    },
    async lastEventId (reply) {
      const stream = await reply.startStream('ann')
      log.push(reply.sse.lastEventId, stream.lastEventId)
    }
  }
  for (const [name, handler] of Object.entries(routes)) app.fastify.get(`/${name}`, { sse: 'only' }, (_request, reply) => handler(reply))
  await app.listen()
  // Older than the time for which a farewell stops the client.
  const farewell = 'octa-star-closed:replaced:1'
  const seen: Record<string, unknown[]> = {}
  for (const name of Object.keys(routes)) {
    const client = await connect(app.url(`/${name}`), { headers: name === 'lastEventId' ? { 'last-event-id': farewell } : {} })
    await client.ended
    seen[name] = [...log.splice(0), ...client.events.map(({ data }) => data)]
  }
  t.strictSame(seen, {
    before: ['FST_ERR_OCTA_STAR_REPLY_SENT', '"raw"'],
    after: ['"raw"'],
    close: ['disconnected'],
    keepAlive: ['finished'],
    onClose: ['called'],
    lastEventId: [farewell, undefined]
  })
})

t.test('a guest has a scope of the session', async t => {
  const app = await buildApp(t)
  const identities = [{ user: { id: 'ann' }, sessionId: 's1' }, { user: undefined, sessionId: 's1' }]
  await run(block('Guests'), { fastify: app.fastify, identify: async () => identities.shift() })
  const scopes: unknown[] = []
  const onOpen = (event: unknown) => { scopes.push((event as lib.StreamOpenEvent).stream.scopeKey) }
  diagnostics.subscribe('octa-star:stream:open', onOpen)
  t.teardown(() => diagnostics.unsubscribe('octa-star:stream:open', onOpen))
  await app.listen()
  for (let i = 0; i < 2; i++) await (await connect(app.url('/offers'))).ended
  t.strictSame(scopes, ['ann', ['guest', 's1']])
})

t.test('startStream with a name, and headers that were set before', async t => {
  const app = await buildApp(t)
  await run(block('`reply.startStream(scopeKey, options)`'), { fastify: app.fastify })
  await app.listen()
  const client = await connect(app.url('/chat'))
  t.equal(client.headers['x-room'], 'lobby')
  t.equal(streamsOf(app.fastify)[0]!.name, 'chat')
})

t.test('request.tabId and the options of send', async t => {
  const { fastify, client } = await live(t)
  const request = { tabId: 'tab-1' }
  await run(block('`SendOptions`'), { fastify, request })
  t.equal((await client.event(1)).data, 'saved')
  await run(block('`SendOptions`'), { fastify, request: { tabId: undefined } })
  t.equal((await client.event(2)).data, 'changed elsewhere')
  const saving = Fastify()
  await saving.register(octaStarStreams)
  t.teardown(() => saving.close())
  const sent: unknown[] = []
  saving.streamRegistry.send = async (...given: unknown[]) => sent.push(given)
  await run(block('`request.tabId`'), { fastify: saving })
  await saving.inject({ method: 'POST', url: '/save', payload: { tabId: 'tab-1' } })
  t.strictSame(sent, [['ann', 'saved', { tabId: 'tab-1' }]])
})

t.test('a stream that ticks until the client is gone', async t => {
  const app = await buildApp(t)
  await run(block('`Stream`'), { fastify: app.fastify, sleep: async () => {} })
  await app.listen()
  const client = await connect(app.url('/ticker'))
  t.match(await client.event(2), { event: 'tick', data: /^\{"at":\d+\}$/ })
  const [stream] = streamsOf(app.fastify)
  client.leave()
  await stream!.gone
})

t.test('the properties of a stream', async t => {
  const { fastify, stream, client, finish } = await live(t)
  const lines: object[] = []
  await run(block('`stream.id`'), { stream, request: { log: { info: (line: object) => lines.push(line) } } })
  t.strictSame(lines, [{ streamId: stream.id }])
  await run(block('`stream.lastEventId`'), { stream })
  t.match(await client.event(1), { id: '7', data: 'entry 7' })
  const { age } = await run(block('`stream.openedAt`'), { stream }, 'age')
  t.ok(age >= -1 && age < 60_000, `${age} ms`)
  await run(block('`stream.closing`'), { stream })
  t.equal((await client.event(2)).data, 'still here')
  stream.close()
  const { reason } = await run(block('`stream.closed`'), { stream }, 'reason')
  t.equal(reason, 'finished')
  finish()
  await run(block('`stream.gone`'), { stream })
  t.equal(fastify.streamRegistry.size, 0)
})

t.test('stream.signal ends the loop', async t => {
  const { stream, client } = await live(t)
  const orders = new EventEmitter()
  const looping = run(block('`stream.signal`'), { stream, orders, on })
  while (orders.listenerCount('order') === 0) await new Promise(setImmediate)
  orders.emit('order', { id: 1 })
  t.match(await client.event(1), { event: 'order', data: '{"id":1}' })
  stream.close()
  await t.rejects(looping, { name: 'AbortError' })
})

t.test('send and sendAll', async t => {
  const { stream, client } = await live(t)
  await run(block('`stream.send(message)`'), { stream })
  t.equal((await client.event(1)).data, 'hello')
  t.match(await client.event(2), { event: 'order', id: '7', data: '{"total":12}' })
  async function * readOrders () { yield * ['one', 'two'] }
  const { sent } = await run(block('`stream.sendAll(source, options)`'), { stream, readOrders }, 'sent')
  t.equal(sent, 2)
  t.equal((await client.event(4)).data, 'two')
})

t.test('onClose, onReplaced, keepAlive and close', async t => {
  const { fastify, stream, client, finish, connect } = await live(t)
  let cleanups = 0
  await run(block('`stream.onClose(callback)`'), { stream, subscription: { unsubscribe: async () => { cleanups++ } } })
  await run(block('`stream.onReplaced(callback)`'), { stream })
  await run(block('`stream.keepAlive()`'), { stream })
  finish()
  const next = await connect()
  t.equal(await client.ended, 'clean')
  t.strictSame(client.events.map(({ event }) => event), ['paused', 'octa-star-closed'])
  t.equal(cleanups, 1)
  await run(block('`stream.close(reason)`'), { stream: streamsOf(fastify)[0] })
  t.equal(await next.ended, 'broken')
})

t.test('what the handler and the callbacks of a stream may await: whatever waits for itself takes replaceTimeout', async t => {
  const app = await buildApp(t, { replaceTimeout: 300, closeGrace: 100 })
  const { streamRegistry } = app.fastify
  const waits: Record<string, (stream: lib.Stream) => Promise<unknown>> = {
    closed (stream) { stream.close(); return stream.closed },
    gone (stream) { stream.close(); return stream.gone },
    evict: () => streamRegistry.evict('ann'),
    'evict-not-awaited': async () => { streamRegistry.evict('ann') },
    'onClose-count': stream => inCleanup(stream, () => streamRegistry.count('ann')),
    'onClose-send': stream => inCleanup(stream, () => streamRegistry.send('ann', 'hello')),
    'onClose-closed': stream => inCleanup(stream, async () => { await undefined; await stream.closed }),
    'onClose-gone': stream => inCleanup(stream, async () => { await undefined; await stream.gone }),
    'onClose-evict': stream => inCleanup(stream, () => streamRegistry.evict('ann'))
  }
  const inCleanup = async (stream: lib.Stream, callback: () => Promise<unknown>) => {
    stream.onClose(callback)
    stream.close()
  }
  for (const [name, wait] of Object.entries(waits)) {
    app.fastify.get(`/${name}`, { sse: 'only' }, async (_request, reply) => { await wait(await reply.startStream('ann')) })
  }
  await app.listen()
  const givenUp: string[] = []
  for (const name of Object.keys(waits)) {
    const { length } = app.log
    const client = await connect(app.url(`/${name}`))
    t.equal(client.status, 200)
    await client.ended
    while (streamRegistry.size > 0) await new Promise(setImmediate)
    if (app.log.slice(length).some(({ msg }) => msg.includes('did not end within replaceTimeout'))) givenUp.push(name)
  }
  t.strictSame(givenUp, ['gone', 'evict', 'onClose-closed', 'onClose-gone', 'onClose-evict'])
})

t.test('the registry', async t => {
  const { fastify, stream, client, connect } = await live(t)
  const scope = { fastify, request: { tabId: 'tab-2' } }
  const returns = async (heading: string, name: string) => (await run(block(heading), scope, name))[name]
  await run(block('`fastify.streamRegistry`'), scope)
  t.equal((await client.event(1)).data, 'hello')
  t.equal(await returns('`streamRegistry.size`', 'live'), 1)
  t.equal(await returns('`streamRegistry.givenUp`', 'stuck'), 0)
  t.equal(await returns('`streamRegistry.count(scopeKey)`', 'tabs'), 1)
  t.equal(await returns('`streamRegistry.send(scopeKey, message, options)`', 'reached'), 1)
  t.match(await client.event(2), { event: 'order', data: '{"total":12}' })
  await run(block('`streamRegistry.broadcast(message)`'), scope)
  t.match(await client.event(3), { event: 'stock', data: '3' })
  await run(block('`streamRegistry.to(scopeKey, options)`'), scope)
  t.equal((await client.event(4)).data, 'changed elsewhere')
  t.match(await returns('`streamRegistry.list(scopeKey)`', 'tabs'), [{ id: stream.id, tabId: 'tab-1', name: undefined, openedAt: stream.openedAt }])
  for (const heading of ['`streamRegistry.get(scopeKey, tabId, name)`', '`streamRegistry.streams(scopeKey)`']) {
    const [live] = streamsOf(fastify)
    await run(block(heading), scope)
    t.equal(await live!.gone, 'finished')
    await connect()
  }
  t.equal(await returns('`streamRegistry.evict(scopeKey, tabId)`', 'ended'), 1)
  t.equal(fastify.streamRegistry.size, 0)
})

t.test('a holder of the application', async t => {
  const { fastify } = await buildApp(t)
  const { key } = await run(block('`streamKey(scopeKey, tabId, name)`'), { tabId: 'tab-1' }, 'key')
  t.match(key, { tabId: 'tab-1', name: 'socket' })
  const open = () => {
    const socket = new EventEmitter()
    return Object.assign(socket, { closings: [] as unknown[], close (...given: unknown[]) { this.closings.push(given); socket.emit('close') } })
  }
  const [first, second] = [open(), open()]
  for (const socket of [first, second]) {
    const { holds } = await run(block('`streamRegistry.replaceAndRegister(key, holder)`'), { fastify, streamKey: lib.streamKey, once, socket, tabId: 'tab-1' }, 'holds')
    t.equal(holds, true)
  }
  t.strictSame(first.closings, [[1000, 'replaced']])
  t.strictSame(second.closings, [])
  second.emit('close')
  while (fastify.streamRegistry.size > 0) await new Promise(setImmediate)
})

t.test('metrics', async t => {
  const { metrics } = await run(block('Metrics'), {}, 'metrics')
  const { connect } = await live(t)
  for (let i = 0; i < 11; i++) await connect()
  t.match(metrics, { live: 1, replaced: 11, flapping: 1 })
})

t.test('presence', async t => {
  const { online } = await run(block('Presence'), {}, 'online') as { online: Set<string> }
  const { stream } = await live(t, { offlineDelay: 10 })
  t.strictSame([...online], ['ann'])
  stream.close()
  while (online.size > 0) await new Promise(setImmediate)
})

t.test('octa-star-streams/datastar', async t => {
  const app = await buildApp(t)
  await run(block('`octa-star-streams/datastar`'), { fastify: app.fastify })
  await app.listen()
  const client = await connect(app.url('/search'), { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"tabId":"a","term":"zebra"}' })
  t.equal(await client.ended, 'clean')
  t.equal(client.text, 'event: datastar-patch-elements\ndata: elements <p id="found">Nothing for 5 letters</p>\n\n')
  const { fastify, stream, client: other } = await live(t)
  await run(block('`datastar(stream)`'), { fastify, stream })
  t.match(await other.event(2), { event: 'datastar-patch-elements', data: 'elements <p id="news">New</p>' })
})

t.test('the error handler of the application gets what startStream throws', async t => {
  const { fastify } = await buildApp(t, { maxStreamsPerScope: 1, onLimit: 'reject' })
  await run(block('Errors', ERRORS), { fastify })
  fastify.get('/', { sse: 'only' }, async (_request, reply) => { (await reply.startStream('ann')).keepAlive() })
  await fastify.inject({ url: '/', payloadAsStream: true })
  const refused = await fastify.inject('/')
  t.equal(refused.statusCode, 429)
  t.equal(refused.body, 'Close another tab first')
})

t.test('the examples of the options register the plugin with the option', async t => {
  const headings = all.filter(({ file, heading, code }) => file === OPTIONS && code.startsWith('await fastify.register(octaStarStreams, {')).map(({ heading }) => heading)
  t.ok(headings.length > 12)
  for (const heading of headings) {
    const fastify = Fastify()
    t.teardown(() => fastify.close())
    let given = {}
    const register = (plugin: typeof octaStarStreams, options: object) => {
      given = options
      return fastify.register(plugin, options)
    }
    await run(block(heading, OPTIONS), { fastify: { register }, octaStarStreams })
    if (heading !== 'Options') t.ok(Object.hasOwn(given, heading.replaceAll('`', '')), heading)
  }
})

t.test('the examples of the options of redisCluster', async t => {
  const redis = new Redis({ lazyConnect: true })
  const scope = { redis, redisCluster, fastify: { redis, log: Fastify().log } }
  for (const option of ['redis', 'prefix', 'lease', 'maxMessageBytes', 'log']) {
    const { adapter } = await run(block(`\`${option}\``, OPTIONS), scope, 'adapter')
    t.type(adapter.join, 'function', option)
  }
})

const REDIS = '`octa-star-streams/redis`'
const redisBlocks = [block('`cluster`', OPTIONS), block(REDIS, OPTIONS), block(REDIS, OPTIONS, 1)] as const

t.test('each example of octa-star-streams/redis connects two processes', redisOptions, async t => {
  const server = await redisServer(t)
  const { createClient } = await import('redis')
  modules.ioredis = async () => ({ Redis: function () { return server.client() } })
  modules.redis = async () => ({ createClient: () => createClient({ socket: { host: '127.0.0.1', port: server.port } }) })
  // The README's section 'Run several processes' has the same code.
  t.ok(blocksOf('README.md').some(({ heading, code }) => heading === 'Run several processes' && redisBlocks[1].endsWith(code)))
  const other = await buildApp(t, { cluster: redisCluster({ redis: server.client() }) })
  for (const [i, code] of redisBlocks.entries()) {
    const fastify = Fastify()
    t.teardown(() => fastify.close())
    const { redis } = await run(code, { fastify, octaStarStreams, ...i === 0 && { redis: server.client() } }, ...i === 2 ? ['redis'] : [])
    t.teardown(() => redis?.destroy())
    fastify.get('/', { sse: 'only' }, async (_request, reply) => { (await reply.startStream('ann')).keepAlive() })
    await fastify.inject({ url: withSignals('/', { tabId: 'a' }), payloadAsStream: true })
    t.equal(await other.fastify.streamRegistry.count('ann'), 1)
    await fastify.close()
  }
})

t.test('no example is left out', async t => {
  t.strictSame(all.filter(block => !tested.has(block)).map(({ file, heading }) => `${file}: ${heading}`), [])
})
