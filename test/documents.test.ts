// The documents do what they say: every code block of the README and of docs/ is run, and every link and table is checked. Blocks that need a
// browser or another program are run by the test files that ELSEWHERE names, and test/reference.test.ts checks docs/api.md, docs/options.md and docs/errors.md.
import { EventEmitter, once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { PassThrough } from 'node:stream'
import Fastify, { type FastifyInstance } from 'fastify'
import { EventSource } from 'eventsource'
import { JSDOM, VirtualConsole } from 'jsdom'
import t, { type Test } from 'tap'
import octaStarStreams, * as lib from '../lib/index.ts'
import { body as browserModule } from '../lib/browser-module.ts'
import { withSignals, streamsOf } from './kit/app.ts'
import { connect } from './kit/client.ts'
import { nginxOptions, startNginx } from './kit/nginx.ts'
import { blocksOf, isBefore, read, runBlock, type Block } from './kit/document.ts'
import { root } from './kit/run.ts'

const require = createRequire(import.meta.url)
// test/guide.test.ts runs the blocks of docs/guide.md, and test/reference.test.ts the blocks of the pages of the API, the options and the errors.
const DOCUMENTS = ['README.md', 'docs/browsers.md', 'docs/how-it-works.md', 'docs/migrating.md', 'docs/recipes.md', 'docs/security.md']
const all = DOCUMENTS.flatMap(file => blocksOf(file).filter(block => !isBefore(block)).map(block => ({ ...block, file })))
const tested = new Set<Block>()

function block (heading: string, language: string, nth = 0): string {
  const found = all.filter(block => block.heading === heading && block.language === language)[nth]
  if (found === undefined) throw new Error(`the documents have no ${language} block number ${nth} under '${heading}'`)
  tested.add(found)
  return found.code
}

/** The headings of the blocks that other test files run. */
const ELSEWHERE: Record<string, string> = {
  '@fastify/http-proxy': 'test/recipes.test.ts',
  'Vite\'s development server': 'test/recipes.test.ts',
  'Docker without an init process': 'test/recipes.test.ts',
  'node:cluster': 'test/recipes.test.ts',
  pm2: 'test/pm2.test.ts',
  'fetch-event-source': 'test/browser/recipes.test.ts',
  'Service worker': 'test/browser/recipes.test.ts',
  'Run several processes': 'test/reference.test.ts',
  'prom-client': 'test/recipes.test.ts',
  OpenTelemetry: 'test/recipes.test.ts',
  '`fetch`': 'test/browser/recipes.test.ts',
  'htmx 4': 'test/browser/recipes.test.ts',
  'Prerendered pages': 'test/browser/tab-id.test.ts'
}

function section (file: string, heading: string): string {
  return read(file).split(`## ${heading}\n`)[1]!.split('\n## ')[0]!
}

const modules: Record<string, () => Promise<object>> = {
  'octa-star-streams': async () => lib,
  'octa-star-streams/datastar': () => import('../lib/datastar.ts'),
  'octa-star-streams/redis': () => import('../lib/redis/index.ts'),
  fastify: async () => ({ default: (options?: object) => Fastify({ ...options, logger: false }) }),
  'node:events': () => import('node:events'),
  'node:diagnostics_channel': () => import('node:diagnostics_channel'),
  'node:timers/promises': () => import('node:timers/promises')
}

function run (code: string, scope: Record<string, unknown>, ...returns: string[]): Promise<any> {
  return runBlock(code.replace('port: 3000', "port: 0, host: '127.0.0.1'"), name => modules[name]!(), scope, ...returns)
}

async function app (t: Test, options: lib.OctaStarStreamsOptions = {}): Promise<FastifyInstance> {
  const fastify: FastifyInstance = Fastify()
  await fastify.register(octaStarStreams, options)
  t.teardown(() => fastify.close())
  return fastify
}

async function listen (fastify: FastifyInstance): Promise<string> {
  await fastify.listen({ port: 0, host: '127.0.0.1' })
  return fastify.listeningOrigin
}

interface Page { window: any, logged: unknown[], close: () => void }

// jsdom runs no modules: the one that the plugin serves becomes a script, and an import of it a look-up.
function classic (html: string): string {
  const script = `<script>(() => { ${browserModule.replace('export function', 'function')} })()</script>`
  return html
    .replace('<script type="module" src="/octa-star/tab-id.js"></script>', script)
    .replace(/<script type="module">\s*import \{ tabId \} from '\/octa-star\/tab-id.js'/, `${script}<script>const { tabId } = octaStar`)
}

// A page of `origin` with the block in its body, the next one in the tab of `previous` if there is one.
async function page (origin: string, block: string, { previous, before = '' }: { previous?: Page, before?: string } = {}): Promise<Page> {
  const html = classic(block)
  previous?.window.dispatchEvent(new previous.window.Event('pagehide'))
  const logged: unknown[] = []
  const sources: EventSource[] = []
  const virtualConsole = new VirtualConsole()
  virtualConsole.on('log', value => logged.push(value))
  virtualConsole.on('jsdomError', error => logged.push(error))
  const { window } = new JSDOM(`<!doctype html><title>a page</title>${before}${html}`, {
    url: origin,
    runScripts: 'dangerously',
    virtualConsole,
    beforeParse (window: any) {
      for (const name of ['sessionStorage', 'localStorage']) {
        for (const [key, value] of Object.entries(previous?.window[name] ?? {})) window[name].setItem(key, value)
      }
      window.EventSource = class extends EventSource {
        constructor (url: string) {
          super(new URL(url, origin))
          sources.push(this)
        }
      }
    }
  })
  return { window, logged, close () { for (const source of sources) source.close(); window.close() } }
}

async function until (condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise(resolve => setTimeout(resolve, 5))
}

const quickStart = block('Quick start', 'js')

t.test('the quick start shows how many streams are live: one per tab, however often the tab is reloaded', async t => {
  const { fastify } = await run(quickStart, {}, 'fastify') as { fastify: FastifyInstance }
  t.teardown(() => fastify.close())
  const html = await (await fetch(fastify.listeningOrigin)).text()
  const heading = ({ window }: Page) => window.document.querySelector('h1').textContent as string
  let tab: Page | undefined
  for (let load = 0; load < 3; load++) {
    const [stream] = streamsOf(fastify)
    const previous = tab
    const loaded = tab = await page(fastify.listeningOrigin, html, previous === undefined ? {} : { previous })
    t.teardown(() => loaded.close())
    await until(() => heading(loaded).endsWith('live streams: 1'))
    if (stream !== undefined) t.equal(await stream.closed, 'replaced')
  }
  const other = await page(fastify.listeningOrigin, html)
  t.teardown(() => other.close())
  await until(() => heading(other).endsWith('live streams: 2'))
  await until(() => heading(tab!).endsWith('live streams: 2'))
})

t.test('examples/basic is the quick start', async t => {
  t.equal(read('examples/basic/server.js').split('\n').slice(1).join('\n'), quickStart)
})

t.test('recipe: events of an EventEmitter, with a client that reads nothing: the stream ends as stalled, and memory stays below a bound', async t => {
  const fastify = await app(t)
  const { orders } = await run(block('Events of an EventEmitter', 'js'), { fastify }, 'orders') as { orders: EventEmitter }
  await listen(fastify)
  const client = await connect(`${fastify.listeningOrigin}/orders`)
  client.socket.pause()
  const [stream] = streamsOf(fastify)
  const ended: { reason?: string } = {}
  stream!.closed.then(reason => { ended.reason = reason })
  const before = process.memoryUsage().rss
  let most = 0
  // maxBufferedBytes is 1 MiB, and the rest is garbage. Without a limit, events in the emitter's queue would pass this bound in a few seconds.
  const BOUND = 100 * 1024 * 1024
  for (let id = 0; ended.reason === undefined && most < BOUND;) {
    for (const end = id + 50; id < end; id++) orders.emit('change', { id, text: `order ${id} ${'x'.repeat(200)}` })
    most = Math.max(most, process.memoryUsage().rss - before)
    await new Promise(setImmediate)
  }
  t.equal(ended.reason, 'stalled')
  t.ok(most < BOUND, `${Math.round(most / 1024 / 1024)} MiB`)
  t.equal(orders.listenerCount('change'), 0)
})

t.test('the quick start\'s Datastar line names the tab as the server reads it', async t => {
  const { window } = await page('http://127.0.0.1/', block('Quick start', 'html'))
  const { signals, init } = window.document.querySelector('[data-signals]').dataset
  const evaluate = () => window.eval(`(${signals})`)
  t.match(evaluate().tabId, /^[0-9a-f]{32}$/)
  const path = /^@get\('(.+?)'/.exec(init)![1]!
  // "leave the option `tabId` out"
  const { fastify } = await run(quickStart.replace(/, tabId: .+(?= \})/, ''), {}, 'fastify') as { fastify: FastifyInstance }
  t.teardown(() => fastify.close())
  await connect(fastify.listeningOrigin + withSignals(path, evaluate()))
  t.equal(streamsOf(fastify)[0]!.tabId, evaluate().tabId)
})

t.test('send to a user', async t => {
  const fastify = await app(t)
  await run(block('Send to a user', 'js'), { fastify, placeOrder: async () => ({ id: 7, stock: 3 }) })
  fastify.get('/stream/:user', { sse: 'only' }, async (request, reply) => { (await reply.startStream((request.params as { user: string }).user)).keepAlive() })
  const origin = await listen(fastify)
  const open = (user: string, tabId: string) => connect(origin + withSignals(`/stream/${user}`, { tabId }))
  const clients = [await open('ann', 'a'), await open('ann', 'b'), await open('bob', 'a')]
  await fetch(`${origin}/orders`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"tabId":"a"}' })
  for (const [client, expected] of [[clients[0]!, ['order', 'saved', 'stock']], [clients[1]!, ['order', 'changed', 'stock']], [clients[2]!, ['stock']]] as const) {
    await client.event(expected.length)
    t.strictSame(client.events.map(({ event }) => event), expected)
  }
})

t.test('recipe: logout', async t => {
  const fastify = await app(t)
  await run(block('End a user\'s streams on logout', 'js'), { fastify, endSessions: async () => {} })
  fastify.get('/stream', { sse: 'only' }, async (_request, reply) => { (await reply.startStream('ann')).keepAlive() })
  const origin = await listen(fastify)
  const tabs = [await connect(origin + withSignals('/stream', { tabId: 'a' })), await connect(origin + withSignals('/stream', { tabId: 'b' }))]
  t.match(await (await fetch(`${origin}/logout`, { method: 'POST' })).json(), { loggedOut: true })
  for (const tab of tabs) {
    t.equal(await tab.ended, 'clean')
    t.equal(tab.events.at(-1)!.event, 'octa-star-closed')
  }
  t.equal(fastify.streamRegistry.size, 0)
})

t.test('recipe: subscriptions', async t => {
  const fastify = await app(t)
  const items = new EventEmitter()
  const news = {
    subscribe (listener: (item: unknown) => void) {
      items.on('item', listener)
      return () => items.off('item', listener)
    }
  }
  await run(block('Subscriptions', 'js'), { fastify, news })
  const origin = await listen(fastify)
  const first = await connect(origin + withSignals('/news', { tabId: 'a' }))
  items.emit('item', { headline: 'one' })
  t.match(await first.event(1), { event: 'news', data: '{"headline":"one"}' })
  const second = await connect(origin + withSignals('/news', { tabId: 'a' }))
  t.equal(items.listenerCount('item'), 1)
  second.leave()
  await until(() => items.listenerCount('item') === 0)
})

t.test('recipe: slow clients', async t => {
  const fastify = await app(t)
  const orders = new PassThrough({ objectMode: true })
  async function * readOrders () { yield 'from the cursor' }
  await run(block('Slow clients', 'js'), { fastify, readOrders, subscribe: () => orders })
  const client = await connect(`${await listen(fastify)}/history`)
  t.equal((await client.event(1)).data, 'from the cursor')
  orders.write('live')
  t.equal((await client.event(2)).data, 'live')
  client.leave()
  await once(orders, 'close')
})

t.test('recipe: resuming delivers each entry exactly once over ten broken connections', async t => {
  const fastify = await app(t)
  const log = Object.assign(new EventEmitter(), { entries: [] as string[] })
  const append = () => {
    log.entries.push(`entry ${log.entries.length}`)
    log.emit('append')
  }
  await run(block('Resuming', 'js'), { fastify, log, once })
  const origin = await listen(fastify)
  const received: string[] = []
  const source = new EventSource(origin + withSignals('/log', { tabId: 'a' }))
  t.teardown(() => source.close())
  source.onmessage = ({ data }) => { received.push(data) }
  let connections = 0
  source.onopen = () => { connections++ }
  await until(() => fastify.streamRegistry.size === 1)
  await streamsOf(fastify)[0]!.send({ retry: 10 })
  for (let broken = 0; broken < 10; broken++) {
    await until(() => connections === broken + 1)
    const [stream] = streamsOf(fastify)
    for (let i = 0; i < 10; i++) append()
    // Half of the connections break while entries are on their way, and half break when the client has received every entry.
    if (broken % 2 === 0) await until(() => received.length === log.entries.length)
    stream!.close('expired')
    append()
    await stream!.gone
    append()
  }
  await until(() => received.length >= log.entries.length)
  append()
  await until(() => received.at(-1) === log.entries.at(-1))
  t.strictSame(received, log.entries)
  t.equal(connections, 11)
})

t.test('recipe: several streams in a page', async t => {
  const fastify = await app(t)
  await run(block('Open several streams in a page', 'js'), { fastify })
  const origin = await listen(fastify)
  for (const path of ['/orders', '/chat', '/chat']) await connect(origin + withSignals(path, { tabId: 'a' }))
  t.strictSame(streamsOf(fastify).map(stream => stream.name), ['orders', 'chat'])
})

t.test('recipe: a last word, and the tests\' own block', async t => {
  const fastify = await app(t)
  await run(block('A last word to the page that lost', 'js'), { fastify })
  const { response } = await run(block('Tests', 'js'), { fastify }, 'response')
  t.equal(response.statusCode, 200)
  let text = ''
  for await (const chunk of response.stream()) if ((text += chunk).includes('hello')) break
  t.equal(text, '\ndata: hello\n\n')
  const origin = await listen(fastify)
  const first = await connect(origin + withSignals('/board', { tabId: 'a' }))
  await connect(origin + withSignals('/board', { tabId: 'a' }))
  await first.ended
  t.strictSame(first.events.map(({ event }) => event), ['paused', 'octa-star-closed'])
})

const plain = 'Plain `EventSource`'

async function ordersByTab (t: Test): Promise<FastifyInstance> {
  const fastify: FastifyInstance = Fastify()
  t.teardown(() => fastify.close())
  await run(block(plain, 'js'), { fastify, octaStarStreams })
  fastify.get('/orders', { sse: 'only' }, async (_request, reply) => { (await reply.startStream('ann')).keepAlive() })
  await listen(fastify)
  return fastify
}

t.test('recipe: plain EventSource', async t => {
  const fastify = await ordersByTab(t)
  const { window, close } = await page(fastify.listeningOrigin, block(plain, 'html'))
  t.teardown(close)
  await until(() => fastify.streamRegistry.size === 1)
  t.equal(streamsOf(fastify)[0]!.tabId, window.octaStar.tabId())
  await streamsOf(fastify)[0]!.send({ event: 'order', data: 'one' })
  await until(() => window.document.title === 'one')
})

t.test('recipe: htmx 2 swaps what is sent, and stops at the farewell', async t => {
  const fastify = await ordersByTab(t)
  let requests = 0
  fastify.server.on('request', () => requests++)
  const script = (file: string) => `<script>${readFileSync(require.resolve(file), 'utf8').replaceAll('</script', '<\\/script')}</script>`
  // In browsers the last arguments are optional, as htmx has it; in jsdom they are not.
  const shim = `<script>
    const { evaluate } = XPathExpression.prototype
    XPathExpression.prototype.evaluate = function (node) { return evaluate.call(this, node, 0, null) }
  </script>`
  const { window, close } = await page(fastify.listeningOrigin, block('htmx 2', 'html'), { before: shim + script('htmx.org/dist/htmx.js') + script('htmx-ext-sse/dist/sse.js') })
  t.teardown(close)
  await until(() => fastify.streamRegistry.size === 1)
  await streamsOf(fastify)[0]!.send({ event: 'order', data: '<li>one</li>' })
  await until(() => window.document.querySelectorAll('ul li').length === 1)
  await fastify.streamRegistry.evict('ann')
  // The extension would try again after half a second.
  await new Promise(resolve => setTimeout(resolve, 800))
  t.equal(requests, 1)
})

const nginxBlock = block('Behind nginx', 'nginx')
t.test('recipe: behind nginx', nginxOptions, async t => {
  // More of it is test/nginx.test.ts.
  const fastify = await app(t)
  fastify.get('/orders', { sse: 'only' }, async (_request, reply) => { (await reply.startStream('ann')).keepAlive() })
  const { port } = new URL(await listen(fastify))
  const nginx = await startNginx(t, nginxBlock.replace('3000', port))
  const client = await connect(nginx.url('/orders'))
  await fastify.close()
  t.equal(await client.ended, 'broken')
})

t.test('recipe: shutdown', async t => {
  // That close-with-grace calls it for a signal is test/process-signals.test.ts.
  const fastify = await app(t)
  let whenAsked: (why: { err?: Error }) => Promise<void> = async () => {}
  modules['close-with-grace'] = async () => ({ default: (close: typeof whenAsked) => { whenAsked = close } })
  await run(block('Shut down', 'js'), { fastify })
  fastify.get('/stream', { sse: 'only' }, async (_request, reply) => { (await reply.startStream('ann')).keepAlive() })
  const client = await connect(`${await listen(fastify)}/stream`)
  await whenAsked({})
  t.equal(await client.ended, 'broken')
})

t.test('browsers: the page shows its tab id', async t => {
  const { window, close } = await page('http://127.0.0.1/', block('The tab id', 'html'))
  t.teardown(close)
  t.equal(window.document.title, window.octaStar.tabId())
})

t.test('browsers: the page for the back/forward cache opens a stream under its tab id', async t => {
  const fastify = await ordersByTab(t)
  const { window, close } = await page(fastify.listeningOrigin, block('Back and forward', 'html'))
  t.teardown(close)
  await until(() => fastify.streamRegistry.size === 1)
  t.equal(streamsOf(fastify)[0]!.tabId, window.octaStar.tabId())
})

t.test('security: who may open which stream', async t => {
  const fastify = await app(t)
  await run(block('Who may open which stream', 'js'), { fastify })
  await connect(`${await listen(fastify)}/orders`)
  t.equal(streamsOf(fastify)[0]!.scopeKey, 'ann')
})

t.test('the install line installs this package and its peer', async t => {
  // That it works is test/package.test.ts.
  const { name, peerDependencies, peerDependenciesMeta } = require('../package.json')
  const needed = Object.keys(peerDependencies).filter(peer => peerDependenciesMeta[peer]?.optional !== true)
  t.equal(block('Quick start', 'sh').trim(), `npm install ${name} ${needed.join(' ')}`)
})

t.test('the README names commands that exist, and the test command of CI', async t => {
  const { scripts } = require('../package.json')
  const commands = block('Contributing', 'sh').trim().split('\n').map(line => line.split(/ +#/)[0]!)
  for (const command of commands.slice(1)) t.ok(scripts[/^npm (?:run )?([\w:]+)$/.exec(command)![1]!] !== undefined, command)
  t.strictSame(read('.ci/run').split('\n').filter(line => line.startsWith('npm ')), [commands[0], commands.at(-1)])
})

t.test('how it works: a replacement goes as in the diagram, and the farewell is as written', async t => {
  const fastify = await app(t)
  const happened: string[] = []
  fastify.get('/', { sse: 'only' }, async (_request, reply) => {
    happened.push('startStream')
    const stream = await reply.startStream('ann')
    happened.push('stream, resolved')
    if (happened.length > 2) return
    const replaced = once(stream.signal, 'abort')
    stream.signal.addEventListener('abort', () => happened.push('signal aborts'))
    stream.onClose(async () => {
      happened.push('onClose runs')
      await new Promise(setImmediate)
      happened.push('cleanups have settled')
    })
    await replaced
    happened.push('handler has returned')
  })
  const origin = await listen(fastify)
  const old = await connect(origin + withSignals('/', { tabId: 'a' }))
  await connect(origin + withSignals('/', { tabId: 'a' }))
  const diagram = block('How a stream replaces another stream', 'text')
  const steps = happened.slice(2)
  t.strictSame(steps, [...steps].sort((a, b) => diagram.indexOf(a) - diagram.indexOf(b)))
  t.strictSame(steps, ['startStream', 'signal aborts', 'onClose runs', 'handler has returned', 'cleanups have settled', 'stream, resolved'])
  t.equal(await old.ended, 'clean')
  const withoutTime = (text: string) => text.replace(/\d{13}/, 'time').trim()
  t.equal(withoutTime(old.text), withoutTime(block('The farewell and the 204', 'text')))
})

t.test('migrating: the code after each move does the same for a page', async t => {
  const html = block('Migrating', 'html')
  for (const from of ['`@fastify/sse` alone', '`fastify-sse-v2`', '`better-sse`', 'the Elixir library OctaStar']) {
    const fastify: FastifyInstance = Fastify()
    t.teardown(() => fastify.close())
    const emitter = new EventEmitter()
    const orders = {
      subscribe (listener: (order: object) => void) {
        emitter.on('change', listener)
        return () => { emitter.off('change', listener) }
      }
    }
    await run(block(`From ${from}`, 'js'), { fastify, octaStarStreams, orders })
    const origin = await listen(fastify)
    if (from.includes('Elixir')) {
      const client = await connect(origin + withSignals('/orders', { tabId: 'a' }))
      emitter.emit('change', { id: 7 })
      t.equal((await client.event(1)).data, 'elements <li id="order-7">Order 7</li>')
      t.equal(streamsOf(fastify)[0]!.tabId, 'a')
      client.leave()
    } else {
      const { window, close } = await page(origin, html)
      await until(() => fastify.streamRegistry.size === 1)
      t.equal(streamsOf(fastify)[0]!.tabId, window.octaStar.tabId())
      if (from.includes('better')) {
        await until(() => window.document.title === 'hello')
        const stock = await connect(`${origin}/orders`)
        await fetch(`${origin}/stock`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"pan":2}' })
        t.match(await stock.event(2), { event: 'stock', data: '{"pan":2}' })
        stock.leave()
      } else {
        await until(() => emitter.listenerCount('change') === 1)
        emitter.emit('change', { id: 7 })
        await until(() => window.document.title === '{"id":7}')
      }
      close()
    }
    await until(() => fastify.streamRegistry.size === 0 && emitter.listenerCount('change') === 0)
  }
})

t.test('NestJS: the example has the same handler, and test/nestjs.test.ts runs the example', async t => {
  const example = readFileSync(new URL('../examples/nestjs/main.ts', import.meta.url), 'utf8')
  const lines = block('NestJS', 'ts').split('\n').slice(0, 3)
  t.ok(example.includes(lines.map(line => `  ${line}`).join('\n')))
})

t.test('no block is left out', async t => {
  t.strictSame(all.filter(block => !tested.has(block) && !Object.hasOwn(ELSEWHERE, block.heading)).map(({ file, heading, language }) => `${file}: ${heading}: ${language}`), [])
  for (const [heading, file] of Object.entries(ELSEWHERE)) t.ok(read(file).includes(heading.replaceAll('\'', '\\\'')), `${file} runs the blocks of ${heading}`)
})

/** The anchor that GitHub gives a heading: https://github.com/gjtorikian/html-pipeline/blob/main/lib/html_pipeline/node_filter/table_of_contents_filter.rb */
const anchorOf = (heading: string) => heading.toLowerCase().replaceAll(/[^\p{L}\p{N}_\- ]/gu, '').replaceAll(' ', '-')

t.test('every link to a file leads to a file of the repository, and every anchor to a heading', async t => {
  const documents = readdirSync(root, { withFileTypes: true }).flatMap(entry => {
    if (entry.isFile()) return entry.name
    if (['node_modules', '.tap', '.git'].includes(entry.name)) return []
    return readdirSync(join(root, entry.name), { recursive: true, encoding: 'utf8' }).map(file => join(entry.name, file))
  }).filter(file => file.endsWith('.md'))
  t.ok(documents.includes('README.md') && documents.includes('docs/architecture.md'))
  for (const file of documents) {
    const text = read(file).replaceAll(/^```.*?^```$/gms, '')
    for (const [, path, anchor] of text.matchAll(/\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)/g)) {
      const target = path === '' ? file : join(dirname(file), path!)
      t.ok(existsSync(new URL(`../${target}`, import.meta.url)), `${file}: ${path}`)
      if (anchor !== undefined) t.ok([...read(target).matchAll(/^#+ (.+)$/gm)].some(([, heading]) => anchorOf(heading!) === anchor), `${file}: ${path}#${anchor}`)
    }
  }
})

t.test('the README\'s table of options has the defaults of the code, and the tables of reasons have every reason', async t => {
  const column = (text: string) => [...text.matchAll(/^\| `(\w+)`/gm)].map(match => match[1]!)
  const { defaults } = await import('../lib/options.ts')
  const rows = section('README.md', 'API').split('\n')
  for (const [option, value] of Object.entries(defaults)) {
    const row = rows.find(line => line.startsWith(`| \`${option}\` |`))
    if (row !== undefined) t.ok(row.endsWith(value === undefined ? '| none |' : `| \`${typeof value === 'string' ? `'${value}'` : value}\` |`), `${option}: its default`)
  }
  const reasons = ['disconnected', 'evicted', 'expired', 'failed', 'finished', 'replaced', 'shutdown', 'stalled']
  for (const file of ['README.md', 'docs/how-it-works.md']) t.strictSame(column(section(file, 'How a stream ends')).sort(), reasons, file)
})

t.test('what the README shows of the benchmarks is what they last wrote down', async t => {
  const results = readFileSync(new URL('../bench/RESULTS.md', import.meta.url), 'utf8')
  const rows = (text: string) => text.split('\n').filter(line => line.startsWith('| ')).map(line => line.split('|').slice(1, -1).map(cell => cell.trim()))
  const written = rows(results).map(cells => cells.join('|'))
  const shown = rows(section('README.md', 'Performance'))
  t.ok(shown.length > 5)
  for (const row of shown.slice(1).filter(([what]) => !/^-+$/.test(what!))) t.ok(written.includes(row.join('|')), row[1]!)
})
