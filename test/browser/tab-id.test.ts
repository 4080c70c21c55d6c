// In Chromium: a tab keeps its id wherever it goes, no two tabs share one, and each has one live stream.
import t, { type Test } from 'tap'
import type { Stream } from '../../lib/index.ts'
import { buildApp, type App } from '../kit/app.ts'
import { browserOptions, launch } from '../kit/chromium.ts'

const page = (body: string) => `<!doctype html><link rel="icon" href="data:,">
  <script type="module" src="/octa-star/tab-id.js"></script>${body}`

async function site (t: Test): Promise<{ app: App, streams: Stream[], until: (live: number, opened: number) => Promise<void> }> {
  const app = await buildApp(t, { browser: '/octa-star/tab-id.js', tabId: request => (request.query as { tab?: string }).tab })
  const streams: Stream[] = []
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    const stream = await reply.startStream('ann')
    streams.push(stream)
    stream.keepAlive()
  })
  for (const path of ['/', '/two']) {
    app.fastify.get(path, async (_request, reply) => reply.type('text/html').send(page(`<script type="module">
      const open = () => { globalThis.source = new EventSource('/stream?tab=' + octaStar.tabId()) }
      open()
      // A page that comes back from the cache has lost its stream to the page after it.
      addEventListener('pageshow', event => { if (event.persisted) open() })
    </script>`)))
  }
  await app.listen()
  const until = async (live: number, opened: number) => {
    while (app.fastify.streamRegistry.size !== live || streams.length < opened) await new Promise(resolve => setTimeout(resolve, 10))
  }
  return { app, streams, until }
}

t.test('navigation, reload, back and forward: one live stream after each, the same tab id all along', browserOptions, async t => {
  const { app, streams, until } = await site(t)
  const { newTab, errors } = await launch(t)
  const tab = await newTab()
  await tab.goto(app.url('/'))
  await until(1, 1)
  for (let i = 0; i < 10; i++) {
    const opened = streams.length
    if (i % 5 === 0) await tab.goto(app.url('/two'))
    else if (i % 5 === 1) await tab.reload()
    else if (i % 5 === 2) await tab.goto(app.url('/'))
    else if (i % 5 === 3) await tab.goBack({ waitUntil: 'commit' })
    else await tab.goForward({ waitUntil: 'commit' })
    await until(1, opened + 1)
  }
  for (let i = 0; i < 10; i++) {
    const opened = streams.length
    await (i % 2 === 0 ? tab.goBack({ waitUntil: 'commit' }) : tab.goForward({ waitUntil: 'commit' }))
    await until(1, opened + 1)
  }
  t.equal(new Set(streams.map(stream => stream.tabId)).size, 1)
  t.match(streams[0]!.tabId, /^[0-9a-f]{32}$/)
  t.strictSame(errors, [])
})

t.test('a duplicated tab, an opened window and a new tab get ids of their own, and end nobody\'s stream', browserOptions, async t => {
  const { app, streams, until } = await site(t)
  const { newTab, duplicate, context, errors } = await launch(t)
  const tab = await newTab()
  await tab.goto(app.url('/'))
  await until(1, 1)
  const copy = await duplicate(tab)
  await until(2, 2)
  const opened = context.waitForEvent('page')
  await tab.evaluate(() => { (globalThis as unknown as { open: (url: string) => void }).open('/two') })
  await (await opened).waitForLoadState()
  await until(3, 3)
  const other = await newTab()
  await other.goto(app.url('/'))
  await until(4, 4)
  t.equal(new Set(streams.map(stream => stream.tabId)).size, 4)

  // No ping-pong: nothing is opened or ended while nobody does anything.
  await new Promise(resolve => setTimeout(resolve, 20_000))
  t.equal(streams.length, 4)
  t.ok(streams.every(stream => !stream.signal.aborted))

  // Each goes on by itself: a duplicate that navigates keeps what is now its own.
  await copy.reload()
  await until(4, 5)
  t.equal(streams[4]!.tabId, streams[1]!.tabId)
  await tab.goto(app.url('/two'))
  await until(4, 6)
  t.equal(streams[5]!.tabId, streams[0]!.tabId)
  t.strictSame(errors, [])
})

t.test('where storage throws or crypto.randomUUID is missing there is a fresh id and no exception', browserOptions, async t => {
  const { app, until } = await site(t)
  const { newTab, errors } = await launch(t)
  const tab = await newTab()
  await tab.addInitScript(() => {
    const { Storage, Crypto } = globalThis as any
    for (const method of ['getItem', 'setItem', 'removeItem']) Storage.prototype[method] = () => { throw new DOMException('blocked', 'SecurityError') }
    delete Crypto.prototype.randomUUID
  })
  await tab.goto(app.url('/'))
  await until(1, 1)
  await tab.reload()
  await until(1, 2)
  t.strictSame(errors, [])
})
