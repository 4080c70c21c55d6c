// The tab id in three engines: a tab keeps its id wherever it goes, and no tab takes another tab's stream.
import { once } from 'node:events'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { blocksOf } from '../kit/document.ts'
import { ENGINES, launch, optionsFor, type Browser, type Engine, type Tab } from '../kit/engines.ts'
import { launchPlainChromium } from '../kit/engines/dev-tools.ts'
import { restartable } from '../kit/engines/restart.ts'
import { folder } from '../kit/engines/program.ts'
import { buildApp } from '../kit/app.ts'
import type { Stream } from '../../lib/index.ts'

type Page = typeof globalThis & {
  octaStar: { tabId: () => string }
  source: { readyState: number, close: () => void }
  restored?: boolean
  open: (url: string, target?: string, features?: string) => unknown
  [name: string]: any
}

interface Site {
  url: (path: string) => string
  /** A page of another site. With `?FRAME` it has a frame that shows the address FRAME. */
  foreign: string
  /** All streams so far, and the tab id of each. */
  streams: Stream[]
  ids: string[]
  /** The paths of all requests for pages so far. */
  requests: string[]
  /** Resolves when `count` streams have been opened. `browser` must not end before. */
  opened: (count: number, browser: { mustRun: () => void }) => Promise<void>
  /** Resolves when the server has seen the end of all streams but the last of each given id, and checks that these streams are live. */
  onlyLive: (browser: { mustRun: () => void }, ...own: string[]) => Promise<void>
  /** Resolves to the tab's id when the tab's stream is open. */
  idOf: (tab: Tab) => Promise<string>
  /** Checks that each tab has an id and a live stream of its own, and that no other stream is live. */
  eachHasItsOwn: (browser: { mustRun: () => void }, ...tabs: Tab[]) => Promise<void>
}

// A case that hangs is named, and the cases after it still run.
const TIMEOUT = 180_000
const MODULE = '<script type="module" src="/tab-id.js"></script>'
const PRERENDER = '<script type="speculationrules">{"prerender": [{"urls": ["/next"], "eagerness": "immediate"}]}</script>'
const ACTIVATED = '/plain?activated'
// The page of docs/browsers.md, which opens the stream when the page is shown. Here the page also tells the server about each step.
const PRERENDERED_PAGE = blocksOf('docs/browsers.md').find(({ heading }) => heading === 'Prerendered pages')!.code
const NEXT = MODULE + PRERENDERED_PAGE.replace('/octa-star/tab-id.js', '/tab-id.js').replace('/orders', '/stream').replace('new EventSource', 'globalThis.source = new EventSource').replace('</script>', `
  if (document.prerendering) {
    document.addEventListener('prerenderingchange', () => { fetch('${ACTIVATED}') })
    fetch('/plain?prerendered=' + tabId())
  }
</script>`)
/** The ids that prerendered pages had so far. */
const prerenders = (requests: string[]) => requests.flatMap(url => /prerendered=(.*)/.exec(url)?.slice(1) ?? [])
const STREAM = `<script type="module">
  const open = () => { globalThis.source = new EventSource('/stream?tab=' + octaStar.tabId()) }
  open()
  addEventListener('pageshow', event => {
    globalThis.restored = event.persisted
    if (event.persisted) open()
  })
</script>`

async function site (t: Test, pages: Record<string, string> = {}): Promise<Site> {
  const app = await buildApp(t, { browser: '/tab-id.js', tabId: request => (request.query as { tab?: string }).tab, fastify: { forceCloseConnections: true } })
  const { fastify } = app
  const streams: Stream[] = []
  const ids: string[] = []
  const requests: string[] = []
  fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    const stream = await reply.startStream('ann')
    streams.push(stream)
    ids.push(stream.tabId!)
    stream.keepAlive()
  })
  const all = { '/': MODULE + STREAM, '/two': MODULE + STREAM, '/isolated': MODULE + STREAM, '/plain': '', ...pages }
  for (const [path, body] of Object.entries(all)) {
    fastify.get(path, async (request, reply) => {
      requests.push(request.url)
      if (path === '/isolated') reply.header('cross-origin-opener-policy', 'same-origin')
      return reply.type('text/html').send(`<!doctype html><link rel="icon" href="data:,"><p>${path}</p>${body}`)
    })
  }
  await app.listen()
  // Another address is another site, and Chromium, Firefox and WebKit show another site by another process.
  const other = http.createServer((request, response) => {
    const frame = /\?(.*)/.exec(request.url!)?.[1]
    response.setHeader('content-type', 'text/html').end(`<!doctype html><link rel="icon" href="data:,">Elsewhere${frame === undefined ? '' : `<iframe src="${frame}"></iframe>`}`)
  }).listen(0, '127.0.0.2')
  await once(other, 'listening')
  t.teardown(() => {
    other.close()
    other.closeAllConnections()
  })
  const opened: Site['opened'] = (count, browser) => waitUntil(browser, () => ids.length >= count)
  const onlyLive: Site['onlyLive'] = async (browser, ...own) => {
    await waitUntil(browser, () => fastify.streamRegistry.size <= own.length)
    const live = [...fastify.streamRegistry].map(holder => (holder as { tabId?: string }).tabId)
    t.strictSame(live.sort(), own.sort(), 'each tab has a live stream')
  }
  const idOf = async (tab: Tab) => {
    await tab.until(() => (globalThis as Page).source?.readyState === 1)
    return await tab.run(() => (globalThis as Page).octaStar.tabId())
  }
  return {
    url: app.url,
    foreign: `http://127.0.0.2:${(other.address() as AddressInfo).port}/`,
    streams,
    ids,
    requests,
    opened,
    onlyLive,
    idOf,
    async eachHasItsOwn (browser, ...tabs) {
      const own: string[] = []
      for (const tab of tabs) {
        // A tab whose stream was stolen has closed it for good.
        await tab.until(() => (globalThis as Page).source?.readyState > 0)
        own.push(await tab.run(() => (globalThis as Page).octaStar.tabId()))
      }
      t.equal(new Set(own).size, tabs.length, 'no two tabs share an id')
      await onlyLive(browser, ...own)
      for (const tab of tabs) t.equal(await tab.run(() => (globalThis as Page).source.readyState), 1, 'the tab has seen no end of its stream')
    }
  }
}

/** Resolves when `condition` returns true. Rejects if the browser ends before. */
async function waitUntil (browser: { mustRun: () => void }, condition: () => boolean): Promise<void> {
  while (!condition()) {
    browser.mustRun()
    await pause(10)
  }
}

/** Closes the page's stream, so that the page enters the back/forward cache. Firefox keeps no page that has a stream. */
const closeStream = (tab: Tab) => tab.run(() => { (globalThis as Page).source?.close() })

/**
 * Opens the first page in a tab, goes to the second page, and comes back by the back/forward cache. A browser decides each time whether
 * the page comes from that cache, so this function goes there and back until the page does.
 */
async function restoredTab (t: Test, browser: Browser, { url, idOf }: Site): Promise<Tab> {
  const tab = await browser.newTab(url('/'))
  const id = await idOf(tab)
  do {
    await closeStream(tab)
    await tab.goto(url('/two'))
    t.equal(await idOf(tab), id)
    await tab.back()
    await tab.until(() => globalThis.location.pathname === '/')
    t.equal(await idOf(tab), id)
  } while (await tab.run(() => (globalThis as Page).restored) !== true)
  return tab
}

interface Case {
  rule: string
  /** The engines that can do this. Default: all. */
  engines?: Engine[]
  /** Pages of the site, by path. */
  pages?: Record<string, string>
  run: (t: Test, browser: Browser, site: Site) => Promise<void>
}

const windows: Record<string, (tab: Tab, url: string) => Promise<Tab>> = {
  'an opened window': (tab, url) => tab.opens(url => { (globalThis as Page).open(url) }, url),
  'a window opened by a link that passes its opener': (tab, url) => tab.opens(url => {
    const { document } = globalThis as Page
    document.body.insertAdjacentHTML('beforeend', `<a href="${url}" target="_blank" rel="opener">open</a>`)
    ;(document.body.lastElementChild as any).click()
  }, url)
}
const copies: Array<[name: string, engines: Engine[] | undefined, open: (tab: Tab, url: string) => Promise<Tab>]> = [
  ['a duplicated tab', ['chromium', 'firefox'], tab => tab.duplicate!()],
  ...Object.entries(windows).map(([name, open]): typeof copies[number] => [name, undefined, open])
]

const cases: Case[] = [
  ...[false, true].map((isCached): Case => ({
    rule: `navigation, reload, location.replace, back and forward keep the id, and leave one live stream${isCached ? ', also from the back/forward cache' : ''}`,
    async run (t, browser, { url, ids, idOf, eachHasItsOwn }) {
      const tab = await browser.newTab(url('/'))
      const id = await idOf(tab)
      t.match(id, /^[0-9a-f]{32}$/)
      const replace = () => tab.run(url => { (globalThis as Page).location.replace(url) }, url('/two'))
      const round = [() => tab.goto(url('/two')), () => tab.reload(), () => tab.goto(url('/')), replace, () => tab.back(), () => tab.forward()]
      let restored = 0
      for (const step of [...round, ...round, ...Array(5).fill([() => tab.back(), () => tab.forward()]).flat()]) {
        const opened = ids.length
        if (isCached) await closeStream(tab)
        await step()
        await waitUntil(browser, () => ids.length > opened)
        t.equal(await idOf(tab), id)
        if (await tab.run(() => (globalThis as Page).restored)) restored++
      }
      await eachHasItsOwn(browser, tab)
      // A browser decides again each time, for example by whether the closed connection is gone.
      if (isCached) t.ok(restored > 0, `the page came ${restored} times from the back/forward cache`)
      t.strictSame([...new Set(ids)], [id])
    }
  })),
  {
    rule: 'trips to another site keep the id, by Back and by a link',
    async run (t, browser, { url, foreign, idOf, eachHasItsOwn }) {
      const tab = await browser.newTab(url('/'))
      const id = await idOf(tab)
      for (const isCached of [false, true]) {
        for (const comeBack of [() => tab.back(), () => tab.goto(url('/two')), () => tab.back(), () => tab.goto(url('/'))]) {
          if (isCached) await closeStream(tab)
          await tab.goto(foreign)
          await comeBack()
          t.equal(await idOf(tab), id)
        }
      }
      await eachHasItsOwn(browser, tab)
    }
  },
  ...copies.flatMap(([copy, engines, open]): Case[] => [
    {
      rule: `${copy} gets an id of its own, and each tab keeps its id from then on`,
      engines,
      async run (t, browser, { url, idOf, eachHasItsOwn }) {
        const tab = await browser.newTab(url('/'))
        const id = await idOf(tab)
        const other = await open(tab, url('/two'))
        await eachHasItsOwn(browser, tab, other)
        const otherId = await idOf(other)
        await other.reload()
        await tab.goto(url('/two'))
        t.equal(await idOf(tab), id)
        t.equal(await idOf(other), otherId)
        await eachHasItsOwn(browser, tab, other)
      }
    },
    {
      rule: `${copy} gets an id of its own after a return from the back/forward cache`,
      engines,
      async run (t, browser, site) {
        const tab = await restoredTab(t, browser, site)
        const other = await open(tab, site.url('/two'))
        await site.eachHasItsOwn(browser, tab, other)
      }
    },
    ...['a page without the module', 'a page of another site'].flatMap((where): Case[] => ['the tab', 'the copy'].map((first): Case => ({
      rule: `${copy} that was made at ${where} steals no stream, if ${first} comes back first`,
      engines,
      async run (t, browser, { url, foreign, idOf, eachHasItsOwn }) {
        const away = where === 'a page without the module' ? url('/plain') : foreign
        const tab = await browser.newTab(url('/'))
        const id = await idOf(tab)
        await closeStream(tab)
        await tab.goto(away)
        const other = await open(tab, away)
        const comeBack = async (who: Tab) => { await (who === tab ? who.back() : who.goto(url('/two'))) }
        const [one, two] = first === 'the tab' ? [tab, other] : [other, tab]
        await comeBack(one)
        await idOf(one)
        await comeBack(two)
        await eachHasItsOwn(browser, tab, other)
        if (first === 'the tab') t.equal(await idOf(tab), id)
      }
    })))
  ]),
  {
    rule: 'two copies of the module in one page share an id, which a reload keeps',
    pages: { '/copies': '<script type="module">import { tabId as one } from "/tab-id.js"; import { tabId as two } from "/tab-id.js?v=1"; globalThis.ids = [one(), two()]</script>' + STREAM },
    async run (t, browser, { url, idOf }) {
      const tab = await browser.newTab(url('/copies'))
      const id = await idOf(tab)
      t.strictSame(await tab.run(() => (globalThis as Page).ids), [id, id])
      await tab.reload()
      t.equal(await idOf(tab), id)
      t.strictSame(await tab.run(() => (globalThis as Page).ids), [id, id])
    }
  },
  {
    rule: 'each frame has an id of its own, which the reload of the frame and of the page keeps',
    pages: { '/frames': `${MODULE}${STREAM}<iframe src="/"></iframe><iframe src="/two"></iframe>` },
    async run (t, browser, { url, idOf }) {
      const tab = await browser.newTab(url('/frames'))
      const idsOf = async () => {
        for (const place of [0, 1]) await tab.until(place => (globalThis as Page)[place].source?.readyState === 1, place)
        return [await idOf(tab), ...await tab.run(() => [0, 1].map(place => (globalThis as Page)[place].octaStar.tabId()))]
      }
      const ids = await idsOf()
      t.equal(new Set(ids).size, 3)
      for (const place of [0, 1, 0]) {
        await tab.run(place => {
          const frame = (globalThis as Page)[place]
          frame.source.close()
          frame.location.reload()
        }, place)
        await tab.until(place => (globalThis as Page)[place].source?.readyState === 1, place)
        t.strictSame(await idsOf(), ids)
      }
      await tab.reload()
      t.strictSame(await idsOf(), ids)
    }
  },
  ...Object.entries({
    blocked: 'for (const name of ["localStorage", "sessionStorage"]) Object.defineProperty(globalThis, name, { get () { throw new DOMException("blocked", "SecurityError") } })',
    'full for the origin': 'Object.defineProperty(globalThis, "localStorage", { value: new Proxy({}, { set () { throw new DOMException("full", "QuotaExceededError") } }) })',
    'full for the tab': 'Object.defineProperty(globalThis, "sessionStorage", { value: new Proxy({}, { set () { throw new DOMException("full", "QuotaExceededError") } }) })'
  }).map(([state, script]): Case => ({
    rule: `if storage is ${state}, each page has an id for its life, and nothing is thrown`,
    pages: { '/broken': `<script>globalThis.thrown = []; addEventListener('error', event => thrown.push(event.message)); delete Crypto.prototype.randomUUID; ${script}</script>${MODULE}${STREAM}` },
    async run (t, browser, { url, idOf, eachHasItsOwn }) {
      const tab = await browser.newTab(url('/broken'))
      const id = await idOf(tab)
      await closeStream(tab)
      await tab.goto(url('/plain'))
      await tab.back()
      await idOf(tab)
      if (await tab.run(() => (globalThis as Page).restored)) t.equal(await idOf(tab), id)
      await tab.reload()
      t.not(await idOf(tab), id)
      t.strictSame(await tab.run(() => (globalThis as Page).thrown), [])
      await eachHasItsOwn(browser, tab)
    }
  })),
  {
    rule: 'a page with another Cross-Origin-Opener-Policy steals no stream, and neither do the pages after it',
    async run (t, browser, { url, idOf, eachHasItsOwn }) {
      const tab = await browser.newTab(url('/'))
      const other = await browser.newTab(url('/'))
      const there = () => tab.goto(url('/isolated'))
      // WebKitGTK's driver loses the tab at a Back from there.
      const [back, forward] = browser.engine === 'webkit' ? [() => tab.goto(url('/')), there] : [() => tab.back(), () => tab.forward()]
      for (const step of [there, back, forward, () => tab.goto(url('/two'))]) {
        await step()
        await idOf(tab)
        await eachHasItsOwn(browser, tab, other)
      }
    }
  },
  ...['location.href = "/next"', 'location.replace("/next")'].map((navigate): Case => ({
    rule: `a prerendered page has an id of its own, and the tab's id when it is shown by ${navigate.split(/[( ]/)[0]}`,
    engines: ['chromium'],
    pages: { '/front': MODULE + STREAM + PRERENDER, '/next': NEXT },
    async run (t, _browser, { url, ids, streams, requests, opened, onlyLive }) {
      const chromium = await launchPlainChromium(t, await folder(t, 'prerender'))
      const front = await chromium.newTab(url('/front'))
      await opened(1, chromium)
      await waitUntil(chromium, () => prerenders(requests).length >= 1)
      t.not(prerenders(requests)[0], ids[0])
      t.notOk(streams[0]!.signal.aborted, 'the page in front has its stream')
      await chromium.evaluate(front, navigate)
      await opened(2, chromium)
      await waitUntil(chromium, () => requests.includes(ACTIVATED))
      t.equal(ids[1], ids[0])
      await onlyLive(chromium, ids[0]!)
      t.notOk(streams[1]!.signal.aborted, 'the shown page has its stream')
      await chromium.evaluate(await chromium.findTab(url('/next')), 'location.href = "/two"')
      await opened(3, chromium)
      t.equal(ids[2], ids[0], 'the page after it has the same id')
      await onlyLive(chromium, ids[0]!)
    }
  })),
  {
    // In such a window Chromium prerendered the page, and then loaded it anew. test/browser-module.test.ts shows the prerendered page. In a tab that
    // was duplicated, Chromium does not prerender reliably.
    rule: 'a page that a page without the module prerenders and goes to steals no stream, in an opened window',
    engines: ['chromium'],
    pages: { '/bare': `<script>addEventListener('storage', ({ key }) => { if (key === 'go') location.href = '/next' })</script>${PRERENDER}`, '/next': NEXT },
    async run (t, _browser, { url, ids, streams, requests, opened, onlyLive }) {
      const chromium = await launchPlainChromium(t, await folder(t, 'prerender'))
      const tab = await chromium.newTab(url('/'))
      await opened(1, chromium)
      await chromium.evaluate(tab, `open('${url('/bare')}')`)
      await waitUntil(chromium, () => prerenders(requests).length >= 1)
      await chromium.evaluate(await chromium.findTab(url('/')), 'localStorage.go = 1')
      await opened(2, chromium)
      t.not(ids[1], ids[0])
      t.notOk(streams[0]!.signal.aborted, 'the tab has its stream')
      await onlyLive(chromium, ids[0]!, ids[1]!)
    }
  },
  {
    rule: 'a discarded tab steals no stream when it is shown again',
    engines: ['chromium', 'firefox'],
    async run (t, { engine }, { url, ids, streams, opened, onlyLive }) {
      const browser = await restartable(t, engine)
      await browser.newTab(url('/'))
      await opened(1, browser)
      await browser.newTab(url('/two'))
      await opened(2, browser)
      await browser.discard(url('/'))
      await waitUntil(browser, () => streams[0]!.signal.aborted)
      await browser.show(url('/'))
      await opened(3, browser)
      t.not(ids[2], ids[1])
      t.notOk(streams[1]!.signal.aborted, 'the other tab has its stream')
      await onlyLive(browser, ids[1]!, ids[2]!)
    }
  },
  {
    rule: 'a tab that crashed steals no stream when it is loaded again',
    engines: ['chromium', 'firefox'],
    async run (t, { engine }, { url, ids, streams, opened, onlyLive }) {
      const browser = await restartable(t, engine)
      await browser.newTab(url('/'))
      await opened(1, browser)
      await browser.newTab(url('/two'))
      await opened(2, browser)
      await browser.crash(url('/two'))
      // Firefox notices at the next events that nobody reads the stream of a tab that crashed.
      while (!streams[1]!.signal.aborted) {
        await streams[1]!.send('anything').catch(() => {})
        browser.mustRun()
        await pause(10)
      }
      await browser.reloadCrashed()
      await opened(3, browser)
      t.not(ids[2], ids[0])
      t.notOk(streams[0]!.signal.aborted, 'the other tab has its stream')
      await onlyLive(browser, ids[0]!, ids[2]!)
    }
  },
  {
    rule: 'tabs that are restored after a quit have ids and streams of their own',
    engines: ['chromium', 'firefox'],
    async run (t, { engine }, { url, ids, opened, onlyLive }) {
      const browser = await restartable(t, engine)
      await browser.newTab(url('/'))
      await opened(1, browser)
      await browser.newTab(url('/two'))
      await opened(2, browser)
      const again = await browser.restart()
      await opened(4, again)
      t.not(ids[2], ids[3])
      await onlyLive(again, ids[2]!, ids[3]!)
    }
  },
  {
    rule: 'a frame in a page of another site has an id of its own, steals no stream, and throws nothing',
    async run (t, browser, { url, foreign, ids, streams, opened, onlyLive }) {
      const tab = await browser.newTab(url('/'))
      await opened(1, browser)
      const thrown = (await browser.errors()).length
      const other = await browser.newTab(`${foreign}?${url('/two')}`)
      await opened(2, browser)
      t.not(ids[1], ids[0])
      await other.reload()
      await opened(3, browser)
      t.not(ids[2], ids[0])
      t.notOk(streams[0]!.signal.aborted, 'the tab has its stream')
      await onlyLive(browser, ids[0]!, ids[2]!)
      await closeStream(tab)
      await tab.goto(`${foreign}?${url('/two')}`)
      await opened(4, browser)
      t.not(ids[3], ids[2])
      await onlyLive(browser, ids[2]!, ids[3]!)
      // Tabs of the cases before may look for their servers.
      t.strictSame((await browser.errors()).slice(thrown).filter(error => !error.startsWith('Failed to load resource')), [])
    }
  },
  {
    rule: 'in a worker the import is safe, and tabId() says that it needs a page',
    pages: {
      '/worker': `<script type="module">
      const code = 'import("' + location.origin + '/tab-id.js").then(({ tabId }) => tabId()).catch(error => postMessage(String(error)))'
      new Worker(URL.createObjectURL(new Blob([code], { type: 'text/javascript' }))).onmessage = event => { globalThis.said = event.data }
    </script>`
    },
    async run (t, browser, { url }) {
      const tab = await browser.newTab(url('/worker'))
      await tab.until(() => (globalThis as Page).said !== undefined)
      t.match(await tab.run(() => (globalThis as Page).said), /No tab: call tabId\(\) in a page/)
    }
  }
]

for (const engine of ENGINES) {
  t.test(engine, optionsFor(engine), async t => {
    // Each case has a site of its own, so the cases can share a browser. In WebKitGTK only the browser's first tab can open windows.
    const shared = engine === 'webkit' ? undefined : await launch(t, engine)
    for (const { rule, engines, pages, run } of cases) {
      if (engines !== undefined && !engines.includes(engine)) continue
      await t.test(`${engine}: ${rule}`, { timeout: TIMEOUT }, async t => {
        const visited = await site(t, pages)
        await run(t, shared ?? await launch(t, engine), visited)
      })
    }
  })
}
