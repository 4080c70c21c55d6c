// The pages of the README and of docs/recipes.md in three engines: each page opens, comes back from the back/forward cache and after a shutdown,
// and stays away once evicted. After a 503 each page comes back, except an EventSource without a listener for errors.
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import http from 'node:http'
import { createRequire } from 'node:module'
import { setTimeout as pause } from 'node:timers/promises'
import { buildSync } from 'esbuild'
import t, { type Test } from 'tap'
import { connect } from '../kit/client.ts'
import { ENGINES, launch, optionsFor, type Tab } from '../kit/engines.ts'
import { blocksOf, read } from '../kit/document.ts'
import { datastarClients, site, type Site, type SiteOptions } from '../kit/site.ts'

const require = createRequire(import.meta.url)
const file = (name: string) => readFileSync(require.resolve(name), 'utf8')
const blocks = [...blocksOf('README.md'), ...blocksOf('docs/recipes.md')]
const code = (heading: string, language: string, nth = 0) => blocks.filter(block => block.heading === heading && block.language === language)[nth]!.code.replaceAll('/orders', '/stream').replaceAll('/clock', '/stream')
const page = (heading: string) => code(heading, 'html')
// The page is in a template of the server.
const quickStart = /'text\/html'\)\.send\(`(.*?)`\)/s.exec(code('Quick start', 'js'))![1]!
const bundle = (contents: string) => buildSync({
  stdin: { contents, resolveDir: import.meta.dirname }, alias: { 'octa-star-streams/browser': './lib/browser/tab-id.ts' }, bundle: true, format: 'esm', write: false
}).outputFiles[0]!.text
// The listener for errors of docs/options.md, which opens a new source after an end that is final for the old source.
const again = /`(source\.onerror = .*)`/.exec(read('docs/options.md'))![1]!.replace('5000', '100')

// Keeps the page's sources, and tells when htmx 4 has closed its stream.
const RECORD = `<script>
  globalThis.sources = []
  globalThis.EventSource = class extends EventSource {
    constructor (url) {
      super(url)
      sources.push(this)
    }
  }
  globalThis.isClosed = () => sources.length > 0 && sources.every(source => source.readyState === 2)
  document.addEventListener('htmx:sse:close', event => { if (event.detail.reason === 'message') globalThis.isClosed = () => true })
  for (const name of ['datastar-fetch', 'datastar-sse']) document.addEventListener(name, event => { globalThis.isClosed = () => event.detail.type === 'finished' })
  console.log = value => { document.title = value }
</script>`

interface Recipe {
  name: string
  body: string
  options: SiteOptions
  /** The server's messages that the page shows. */
  message?: (text: string) => Parameters<Site['streams'][0]['send']>[0]
  /** The page asks once more after an eviction, and is answered 204. */
  asksAgain?: boolean
  /** The page comes back after a 503. */
  survives503?: boolean
}

const byQuery = { tabId: (request: { query: unknown }) => (request.query as { tab?: string }).tab }
const order = (data: string) => ({ event: 'order', data })
const RECIPES: Recipe[] = [
  { name: 'the quick start', body: quickStart, options: byQuery, message: text => text },
  {
    name: 'the quick start with the listener for errors',
    body: quickStart.replace('source.onmessage', `${again}\n$&`),
    options: byQuery,
    message: text => text,
    survives503: true
  },
  ...datastarClients().map(({ name, script }) => ({
    name: `the quick start's page for ${name}`,
    // The README's attribute is for 1.0.
    body: '<script type="module" src="/datastar.js"></script>' + page('Quick start').replace(/data-init=("[^"]*")/, 'data-init=$1 data-on-load=$1'),
    options: { scripts: { '/datastar.js': script } },
    asksAgain: !/beta|RC/.test(name),
    survives503: !/beta|RC/.test(name)
  })),
  { name: 'plain EventSource', body: page('Plain `EventSource`'), options: byQuery, message: order },
  { name: 'htmx 2', body: '<script src="/htmx.js"></script><script src="/sse.js"></script>' + page('htmx 2'), options: { ...byQuery, scripts: { '/htmx.js': file('htmx.org/dist/htmx.js'), '/sse.js': file('htmx-ext-sse/dist/sse.js') } }, message: order, survives503: true },
  { name: 'htmx 4', body: '<script src="/htmx.js"></script><script src="/sse.js"></script>' + page('htmx 4'), options: { ...byQuery, scripts: { '/htmx.js': file('htmx.org-4/dist/htmx.js'), '/sse.js': file('htmx.org-4/dist/ext/hx-sse.js') } }, message: text => text, survives503: true },
  {
    name: 'fetch-event-source',
    // The page has closed its stream when the page has aborted its last request.
    body: `<script>
      globalThis.browserFetch = fetch
      globalThis.fetch = (url, options) => {
        globalThis.isClosed = () => options.signal.aborted
        return browserFetch(url, options)
      }
    </script><script type="module" src="/client.js"></script>`,
    options: { ...byQuery, scripts: { '/client.js': bundle(code('fetch-event-source', 'js')) } },
    message: text => text,
    survives503: true
  }
]

const WITH_LISTENER = RECIPES[1]!

/** Answers 503 to the next `count` requests on `port`, and then leaves the port. */
async function refuse (port: number, count = 1): Promise<void> {
  const server = http.createServer((_request, response) => {
    response.writeHead(503, { connection: 'close' }).end('<h1>503</h1>')
    if (--count === 0) server.close()
  }).listen(port, '127.0.0.1')
  await once(server, 'close')
}

async function checkRecipe (t: Test, tab: Tab, { name, body, options, message, asksAgain, survives503 }: Recipe): Promise<void> {
  const first = await site(t, RECORD + body, options)
  const shows = async ({ streams }: Site, text: string) => {
    if (message === undefined) return
    await streams.at(-1)!.send(message(text))
    await tab.until(text => document.title.includes(text) || document.body.textContent.includes(text), text)
  }
  await tab.goto(first.app.url('/'))
  await first.until(1, 1)
  await shows(first, 'opened')
  await tab.goto(first.app.url('/two'))
  await first.until(1, 2)
  await tab.back()
  await first.until(1, 3)
  await shows(first, 'came back')
  t.equal(new Set(first.streams.map(stream => stream.tabId)).size, 1, `${name}: one tab id`)
  const port = first.app.port()
  await first.app.fastify.close()
  let next = await site(t, RECORD + body, { ...options, port })
  await next.until(1, 1)
  await shows(next, 'shut down')
  if (survives503 === true) {
    await next.app.fastify.close()
    await refuse(port, 2)
    next = await site(t, RECORD + body, { ...options, port })
    await next.until(1, 1)
    await shows(next, 'refused')
    t.notOk(await tab.run(() => document.body.textContent.includes('503')), `${name}: does not show the answer`)
  }
  t.equal(await next.app.fastify.streamRegistry.evict('ann'), 1)
  await tab.until(() => (globalThis as any).isClosed())
  t.strictSame(next.refused, asksAgain === true ? [204] : [], `${name}: what an evicted page is answered`)
  t.equal(next.streams.length, 1, `${name}: an evicted page opens no stream`)
}

const UPDATE = `
  addEventListener('install', () => skipWaiting())
  addEventListener('activate', event => event.waitUntil(clients.claim()))
`
const PASSES_THROUGH = UPDATE + "addEventListener('fetch', event => event.respondWith(fetch(event.request)))"
const LEAVES_STREAMS_ALONE = UPDATE + code('Service worker', 'js')

// A recipe without an EventSource and without a library: the page does not come back by itself.
async function checkFetch (t: Test, tab: Tab): Promise<void> {
  const { app, streams, until } = await site(t, RECORD + page('`fetch`'), byQuery)
  for (const [index, path] of ['/', '/two'].entries()) {
    await tab.goto(app.url(path))
    await until(1, index + 1)
    await streams[index]!.send(path)
    await tab.until(path => document.title.includes(`data: ${path}`), path)
  }
  t.equal(streams[1]!.tabId, streams[0]!.tabId)
}

// Opens the page behind a service worker, and waits for the page's stream.
async function visitBehindWorker (t: Test, tab: Tab, body: string, worker: string): Promise<Site> {
  const register = "<script>navigator.serviceWorker.register('/worker.js')</script>"
  const visited = await site(t, RECORD + register + body, { ...byQuery, scripts: { '/worker.js': worker } })
  await tab.goto(visited.app.url('/'))
  await tab.until(() => navigator.serviceWorker.controller !== null)
  await tab.reload()
  await visited.until(1, 2)
  await tab.until(() => (globalThis as any).sources[0].readyState === 1)
  await visited.streams.at(-1)!.send({ retry: 100 })
  return visited
}

// Chromium hides Last-Event-ID from the worker, so an evicted EventSource that the page does not close would come back to stay.
async function checkBehindWorker (t: Test, tab: Tab): Promise<void> {
  const { app, streams, refused, until } = await visitBehindWorker(t, tab, WITH_LISTENER.body, PASSES_THROUGH)
  const { length } = streams
  streams.at(-1)!.close('failed')
  await until(1, length + 1)
  await tab.until(() => (globalThis as any).sources.at(-1).readyState === 1)
  t.equal(await app.fastify.streamRegistry.evict('ann'), 1)
  await tab.until(() => (globalThis as any).isClosed())
  t.strictSame([streams.length, refused], [length + 1, []])
}

// The page has no listener for errors, and does not close its source at the farewell: the source sends Last-Event-ID and is answered 204.
async function checkWorkerRecipe (t: Test, tab: Tab): Promise<void> {
  const body = quickStart.replace(/^.*'octa-star-closed'.*$/m, '')
  const { app, streams, refused, until } = await visitBehindWorker(t, tab, body, LEAVES_STREAMS_ALONE)
  const { length } = streams
  streams.at(-1)!.close('failed')
  await until(1, length + 1)
  await tab.until(() => (globalThis as any).sources[0].readyState === 1)
  await streams.at(-1)!.send({ retry: 100 })
  t.equal(await app.fastify.streamRegistry.evict('ann'), 1)
  await tab.until(() => (globalThis as any).isClosed())
  t.strictSame([streams.length, refused], [length + 1, [204]])
}

// An EventSource stops for good at a 429.
async function checkRejected (t: Test, tab: Tab): Promise<void> {
  const { app, streams, refused, until } = await site(t, RECORD + WITH_LISTENER.body, { ...byQuery, maxStreamsPerScope: 1, onLimit: 'reject' })
  const other = await connect(app.url('/stream?tab=other'))
  await tab.goto(app.url('/'))
  while (refused.length < 2) await tab.until(() => (globalThis as any).sources.at(-1).readyState === 2)
  other.leave()
  await until(1, 2)
  t.ok(refused.every(status => status === 429))
  t.not(streams[1]!.tabId, 'other')
}

// Until the first stream has opened, htmx 4 does not try again by itself, and swaps the answer of a refusal.
async function checkFirstRequest (t: Test, tab: Tab, { body, options, message }: Recipe): Promise<void> {
  let left = 2
  const tabId: SiteOptions['tabId'] = request => {
    if (left-- > 0) throw Object.assign(new Error('503'), { statusCode: 503 })
    return options.tabId!(request)
  }
  const { app, streams, until } = await site(t, RECORD + body.replaceAll('5s', '100ms'), { ...options, tabId, errorsExpected: true })
  await tab.goto(app.url('/'))
  await until(1, 1)
  await streams[0]!.send(message!('opened'))
  await tab.until(() => document.body.textContent.includes('opened'))
  t.notOk(await tab.run(() => document.body.textContent.includes('503')))
}

// Holds the page's long timers until the test runs them, but not the hour that WebKitGTK's driver gives a script. Also lets the test hide the page, which WebKitGTK's driver cannot do.
const CONTROL = `<script>
  globalThis.timers = new Map()
  globalThis.browserTimers = { setTimeout, clearTimeout }
  globalThis.setTimeout = (callback, delay, ...args) => {
    if (!(delay >= 500 && delay < 60_000)) return browserTimers.setTimeout.call(window, callback, delay, ...args)
    const timer = {}
    timers.set(timer, callback)
    return timer
  }
  globalThis.clearTimeout = timer => { if (!timers.delete(timer)) browserTimers.clearTimeout.call(window, timer) }
  globalThis.runTimer = () => {
    const [[timer, callback]] = timers
    timers.delete(timer)
    callback()
  }
  globalThis.showPage = isShown => {
    Object.defineProperty(document, 'hidden', { value: !isShown, configurable: true })
    document.dispatchEvent(new Event('visibilitychange'))
  }
</script>`

// Datastar then sends two requests: one because the page is visible, and one when the timer is due. The second request replaces the first, and
// without the quick start's options Datastar aborts the second request when the first response ends.
// Firefox holds the second request back for 20 seconds, because both requests have the same address.
async function checkTwoRequests (t: Test, tab: Tab, { body, options }: Recipe): Promise<void> {
  const first = await site(t, CONTROL + body, options)
  const timerIsSet = () => tab.until(() => (globalThis as any).timers.size === 1)
  const runTimer = () => tab.run(() => { (globalThis as any).runTimer() })
  await tab.goto(first.app.url('/'))
  await first.until(1, 1)
  const port = first.app.port()
  await first.app.fastify.close()
  await timerIsSet()
  const next = await site(t, CONTROL + body, { ...options, port })
  await tab.run(() => {
    (globalThis as any).showPage(false);
    (globalThis as any).showPage(true)
  })
  await next.until(1, 1)
  await runTimer()
  await next.until(1, 2)
  t.equal(await next.streams[0]!.closed, 'replaced')
  // Datastar reconnects for the first response, with the farewell as Last-Event-ID.
  await timerIsSet()
  await runTimer()
  while (next.refused.length === 0) await pause(10)
  t.strictSame(next.refused, [204])
  await next.streams[1]!.send({ event: 'datastar-patch-elements', data: 'elements <p id="shown">shown</p>\nmode append\nselector body' })
  await tab.until(() => document.getElementById('shown') !== null)
  t.equal(next.streams.length, 2)
}

async function checkFetchEventSource (t: Test, tab: Tab): Promise<void> {
  const { body, options } = RECIPES.find(({ name }) => name === 'fetch-event-source')!
  const { app, streams, refused, until } = await site(t, RECORD + body, options)
  await tab.goto(app.url('/'))
  await until(1, 1)
  for (const [index, reason] of (['finished', 'failed', 'stalled', 'expired'] as const).entries()) {
    await streams[index]!.send({ retry: 100 })
    streams[index]!.close(reason)
    await until(1, index + 2)
  }
  const { tabId } = streams[0]!
  t.equal(new Set(streams.map(stream => stream.tabId)).size, 1)
  const other = await connect(app.url(`/stream?tab=${tabId}`))
  t.equal(await streams.at(-2)!.closed, 'replaced')
  await tab.until(() => (globalThis as any).isClosed())
  t.strictSame([streams.length, refused], [6, []])
  other.leave()
}

for (const engine of ENGINES) {
  t.test(engine, optionsFor(engine), async t => {
    const browser = await launch(t, engine)
    // One tab for all: Datastar and htmx 4 rest while a tab is hidden, and a new tab of WebKitGTK's driver is.
    const tab = await browser.newTab()
    for (const recipe of RECIPES) await t.test(recipe.name, t => checkRecipe(t, tab, recipe))
    await t.test('fetch', t => checkFetch(t, tab))
    await t.test('a page that onLimit has rejected', t => checkRejected(t, tab))
    for (const recipe of RECIPES.filter(({ name }) => name.startsWith('htmx'))) await t.test(`${recipe.name}: the first request is refused`, t => checkFirstRequest(t, tab, recipe))
    for (const recipe of RECIPES.filter(({ name, survives503 }) => name.includes('Datastar') && survives503 === true)) {
      await t.test(`${recipe.name}, when it becomes visible while a retry is due`, t => checkTwoRequests(t, tab, recipe))
    }
    await t.test('fetch-event-source: the ends of a stream', t => checkFetchEventSource(t, tab))
    await t.test('the quick start behind a service worker that passes requests through', t => checkBehindWorker(t, tab))
    await t.test('a page behind a service worker that leaves streams alone', t => checkWorkerRecipe(t, tab))
  })
}
