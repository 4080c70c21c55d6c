// In Chromium with its own EventSource: who comes back, who does not, and what six connections are enough for.
import { setTimeout as pause } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { Page } from 'playwright-core'
import { browserOptions, launch } from '../kit/chromium.ts'
import { cableProxy } from '../kit/cable-proxy.ts'
import { site, thereAndBack, type SiteOptions } from '../kit/site.ts'

const SCRIPT = `
  globalThis.sources = []
  globalThis.openStream = () => {
    const signals = encodeURIComponent(JSON.stringify({ tabId: octaStar.tabId() }))
    sources.push(new EventSource('/stream?datastar=' + signals))
  }
  addEventListener('pageshow', event => { globalThis.restored = event.persisted })
  openStream()`
const eventSourceSite = (t: Test, options: SiteOptions = {}) => site(t, '<script type="module" src="/page.js"></script>', { scripts: { '/page.js': SCRIPT }, ...options })

/** The readyState of each EventSource that the page has opened: 2 is closed for good. */
const states = (tab: Page): Promise<number[]> => tab.evaluate(() => (globalThis as any).sources.map((source: any) => source.readyState))
const openStream = (tab: Page) => tab.evaluate(() => (globalThis as any).openStream())

t.test('an EventSource that is evicted comes back once, is answered 204, and stops for good', browserOptions, async t => {
  const { app, streams, refused, until } = await eventSourceSite(t)
  const { newTab, errors } = await launch(t)
  const tabs = []
  for (let i = 1; i <= 3; i++) {
    tabs.push(await newTab())
    await tabs[i - 1]!.goto(app.url('/'))
    await until(i, i)
  }
  t.equal(await app.fastify.streamRegistry.evict('ann'), 3)
  while (refused.length < 3) await pause(10)
  for (const tab of tabs) while ((await states(tab))[0] !== 2) await pause(10)
  await pause(5000)
  t.strictSame(refused, [204, 204, 204])
  t.equal(streams.length, 3)
  t.strictSame(errors, [])
})

t.test('an EventSource whose server shut down comes back to the next one', browserOptions, async t => {
  const first = await eventSourceSite(t)
  const { newTab } = await launch(t)
  const tab = await newTab()
  await tab.goto(first.app.url('/'))
  await first.until(1, 1)
  const port = first.app.port()
  await first.app.fastify.close()
  const next = await eventSourceSite(t, { port })
  await next.until(1, 1)
  // The stream is open on the server before the head has reached the page.
  while ((await states(tab)).join() !== '1') await pause(10)
  t.equal(next.streams[0]!.tabId, first.streams[0]!.tabId)
})

t.test('the served module works under a strict Content-Security-Policy', browserOptions, async t => {
  const { app, streams, until } = await eventSourceSite(t, { contentSecurityPolicy: "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:; require-trusted-types-for 'script'" })
  const { newTab, errors } = await launch(t)
  const tab = await newTab()
  await tab.goto(app.url('/'))
  await until(1, 1)
  t.match(streams[0]!.tabId, /^[0-9a-f]{32}$/)
  t.strictSame(errors, [])
})

// HTTP/1.1: Chromium opens no more than six connections to a host.
for (const [deduplicate, outcome] of [[false, 'hangs'], [true, 'passes']] as const) {
  t.test(`a page that opens its stream six times, ${deduplicate ? 'deduplicated' : 'not deduplicated'}: the seventh request ${outcome}`, browserOptions, async t => {
    const { app, until } = await eventSourceSite(t, deduplicate ? {} : { tabId: () => undefined })
    const { newTab } = await launch(t)
    const tab = await newTab()
    await tab.goto(app.url('/'))
    await until(1, 1)
    for (let i = 2; i <= 6; i++) {
      await openStream(tab)
      await until(deduplicate ? 1 : i, i)
    }
    let answered = false
    const seventh = tab.evaluate(async () => { await fetch('/ping') }).then(() => { answered = true })
    if (!deduplicate) {
      // Chromium opens six more connections to the same server under another name, so a later request under that name is answered.
      await tab.evaluate(async url => { await fetch(url, { mode: 'no-cors' }) }, app.url('/ping').replace('127.0.0.1', 'localhost'))
      t.notOk(answered, 'it waits for one of the six')
      await tab.evaluate(() => (globalThis as any).sources[0].close())
    }
    await seventh
    t.ok(answered)
  })

  t.test(`six pages whose network froze, ${deduplicate ? 'deduplicated: one stream is left' : 'not deduplicated: each leaves a zombie'}`, browserOptions, async t => {
    const { app, until } = await eventSourceSite(t, deduplicate ? {} : { tabId: () => undefined })
    const proxy = await cableProxy(t, app.port())
    const { newTab } = await launch(t)
    const tab = await newTab()
    for (let i = 1; i <= 6; i++) {
      await tab.goto(proxy.url(i % 2 === 0 ? '/' : '/two'))
      await until(deduplicate ? 1 : i, i)
      proxy.pullCable()
    }
  })
}

t.test('Chromium keeps the EventSource of a page in the back/forward cache until a successor or a minute ends it, and never opens it again', browserOptions, async t => {
  const visited = await eventSourceSite(t)
  const { streams, until } = visited
  const { newTab } = await launch(t)
  const tab = await newTab()
  await thereAndBack(tab, visited)
  t.equal(await streams[0]!.closed, 'replaced', 'it was still open')
  // The second page is in the cache now, and no stream has replaced its own: this takes Chromium a minute.
  await until(0, 2)
  t.equal(await streams[1]!.closed, 'disconnected')
  t.equal(await tab.evaluate(() => (globalThis as any).restored), true, 'the page came from the cache')
  t.strictSame(await states(tab), [2], 'closed for good')
  t.equal(streams.length, 2)
})
