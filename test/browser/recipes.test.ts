// The pages of the README and of docs/recipes.md in three engines: each page opens, comes back from the back/forward cache and after a shutdown, and stays away once evicted.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import t, { type Test } from 'tap'
import { connect } from '../kit/client.ts'
import { ENGINES, launch, optionsFor, type Tab } from '../kit/engines.ts'
import { blocksOf, read } from '../kit/document.ts'
import { datastarClients, site, type Site, type SiteOptions } from '../kit/site.ts'

const require = createRequire(import.meta.url)
const file = (name: string) => readFileSync(require.resolve(name), 'utf8')
const blocks = ['README.md', 'docs/recipes.md'].flatMap(blocksOf)
const codeOf = (heading: string, language: string) => blocks.find(block => block.heading === heading && block.language === language)!.code
const page = (heading: string) => codeOf(heading, 'html').replaceAll('/orders', '/stream').replaceAll('/clock', '/stream')
// The page is in a template of the server.
const quickStart = /send\(`(.*?)`\)/s.exec(codeOf('Quick start', 'js'))![1]!.replaceAll('/clock', '/stream')

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
}

const byQuery = { tabId: (request: { query: unknown }) => (request.query as { tab?: string }).tab }
const order = (data: string) => ({ event: 'order', data })
const RECIPES: Recipe[] = [
  { name: 'the quick start', body: quickStart, options: byQuery, message: text => text },
  ...datastarClients().map(({ name, script }) => ({
    name: `the quick start's page for ${name}`,
    // The README's attribute is for 1.0.
    body: '<script type="module" src="/datastar.js"></script>' + page('Quick start').replace(/data-init=("[^"]*")/, 'data-init=$1 data-on-load=$1'),
    options: { scripts: { '/datastar.js': script } },
    asksAgain: !/beta|RC/.test(name)
  })),
  { name: 'plain EventSource', body: page('Plain `EventSource`, with a tab id of its own in the query'), options: byQuery, message: order },
  { name: 'htmx 2', body: '<script src="/htmx.js"></script><script src="/sse.js"></script>' + page('htmx 2'), options: { ...byQuery, scripts: { '/htmx.js': file('htmx.org/dist/htmx.js'), '/sse.js': file('htmx-ext-sse/dist/sse.js') } }, message: order },
  { name: 'htmx 4', body: '<script src="/htmx.js"></script><script src="/sse.js"></script>' + page('htmx 4'), options: { ...byQuery, scripts: { '/htmx.js': file('htmx.org-4/dist/htmx.js'), '/sse.js': file('htmx.org-4/dist/ext/hx-sse.js') } }, message: text => text }
]

async function checkRecipe (t: Test, tab: Tab, { name, body, options, message, asksAgain }: Recipe): Promise<void> {
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
  const next = await site(t, RECORD + body, { ...options, port })
  await next.until(1, 1)
  await shows(next, 'shut down')
  t.equal(await next.app.fastify.streamRegistry.evict('ann'), 1)
  await tab.until(() => (globalThis as any).isClosed())
  t.strictSame(next.refused, asksAgain === true ? [204] : [], `${name}: what an evicted page is answered`)
  t.equal(next.streams.length, 1, `${name}: an evicted page opens no stream`)
}

const WORKER = `
  addEventListener('install', () => skipWaiting())
  addEventListener('activate', event => event.waitUntil(clients.claim()))
  addEventListener('fetch', event => event.respondWith(fetch(event.request)))`

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

// Chromium hides Last-Event-ID from the worker, so an evicted EventSource would come back to stay.
async function checkBehindWorker (t: Test, tab: Tab): Promise<void> {
  const register = "<script>navigator.serviceWorker.register('/worker.js')</script>"
  const { app, streams, refused, until } = await site(t, RECORD + register + RECIPES[0]!.body, { ...byQuery, scripts: { '/worker.js': WORKER } })
  await tab.goto(app.url('/'))
  await tab.until(() => navigator.serviceWorker.controller !== null)
  await tab.reload()
  await until(1, 2)
  await tab.until(() => (globalThis as any).sources[0].readyState === 1)
  t.equal(await app.fastify.streamRegistry.evict('ann'), 1)
  await tab.until(() => (globalThis as any).isClosed())
  t.strictSame([streams.length, refused], [2, []])
}

// An EventSource stops for good at a 429.
async function checkRejected (t: Test, tab: Tab): Promise<void> {
  const again = /`(source\.onerror = .*)`/.exec(read('docs/options.md'))![1]!.replace('5000', '100')
  const body = RECIPES[0]!.body.replace('source.onmessage', `${again}\n$&`)
  const { app, streams, refused, until } = await site(t, RECORD + body, { ...byQuery, maxStreamsPerScope: 1, onLimit: 'reject' })
  const other = await connect(app.url('/stream?tab=other'))
  await tab.goto(app.url('/'))
  while (refused.length < 2) await tab.until(() => (globalThis as any).sources.at(-1).readyState === 2)
  other.leave()
  await until(1, 2)
  t.ok(refused.every(status => status === 429))
  t.not(streams[1]!.tabId, 'other')
}

for (const engine of ENGINES) {
  t.test(engine, optionsFor(engine), async t => {
    const browser = await launch(t, engine)
    // One tab for all: Datastar and htmx 4 rest while a tab is hidden, and a new tab of WebKitGTK's driver is.
    const tab = await browser.newTab()
    for (const recipe of RECIPES) await t.test(recipe.name, t => checkRecipe(t, tab, recipe))
    await t.test('fetch', t => checkFetch(t, tab))
    await t.test('a page that onLimit has rejected', t => checkRejected(t, tab))
    await t.test('the quick start behind a service worker that passes requests through', t => checkBehindWorker(t, tab))
  })
}
