// The browser's half, as the plugin serves it: its type, its caching, its size.
import vm from 'node:vm'
import { transform } from 'esbuild'
import t, { type Test } from 'tap'
import ts from 'typescript'
import { buildApp } from './kit/app.ts'

t.test('it is served where the option says, as a module that also sets octaStar', async t => {
  const { fastify } = await buildApp(t, { browser: '/octa-star/tab-id.js' })
  const response = await fastify.inject('/octa-star/tab-id.js')
  t.equal(response.statusCode, 200)
  t.equal(response.headers['content-type'], 'text/javascript; charset=utf-8')
  t.match(response.body, /export function tabId/)
  t.match(response.body, /globalThis\.octaStar = \{ tabId \}/)
  t.notMatch(response.body, /^\s*import|sourceMappingURL/m)
})

t.test('it is what tsc builds from lib/browser/tab-id.ts', async t => {
  const { fastify } = await buildApp(t, { browser: '/tab-id.js' })
  const { config } = ts.readConfigFile('tsconfig.browser.json', ts.sys.readFile)
  const { options, fileNames } = ts.parseJsonConfigFileContent(config, ts.sys, '.')
  const built = new Map<string, string>()
  ts.createProgram(fileNames, { ...options, module: ts.ModuleKind.ESNext, sourceMap: false, declaration: false, declarationMap: false })
    .emit(undefined, (name, text) => { built.set(name, text) })
  t.strictSame([...built.keys()], ['dist/lib/browser/tab-id.js'])
  t.equal((await fastify.inject('/tab-id.js')).body, `${[...built.values()][0]}\nglobalThis.octaStar = { tabId }\n`)
})

t.test('it is asked for anew each time, unless its address has a version', async t => {
  const { fastify } = await buildApp(t, { browser: '/tab-id.js' })
  const plain = await fastify.inject('/tab-id.js')
  t.equal(plain.headers['cache-control'], 'no-cache')
  const versioned = await fastify.inject('/tab-id.js?v=1')
  t.equal(versioned.headers['cache-control'], 'public, max-age=31536000, immutable')
  t.equal(versioned.headers.etag, plain.headers.etag)
  const again = await fastify.inject({ url: '/tab-id.js', headers: { 'if-none-match': `"other", W/${plain.headers.etag}` } })
  t.equal(again.statusCode, 304)
  t.equal(again.body, '')
})

t.test('it is under 1 KB minified', async t => {
  const { fastify } = await buildApp(t, { browser: '/tab-id.js' })
  const { code } = await transform((await fastify.inject('/tab-id.js')).body, { minify: true, format: 'esm' })
  t.ok(code.length < 1024, `${code.length} bytes`)
})

t.test('it is not served unless asked for', async t => {
  const { fastify } = await buildApp(t)
  t.equal((await fastify.inject('/octa-star/tab-id.js')).statusCode, 404)
})

t.test('outside a page the import is safe, and tabId() says that it needs a page', async t => {
  const { fastify } = await buildApp(t, { browser: '/tab-id.js' })
  const { body } = await fastify.inject('/tab-id.js')
  const { tabId } = await import(`data:text/javascript,${encodeURIComponent(body)}`)
  t.throws(tabId, { message: 'No tab: call tabId() in a page' })
})

interface FakeTab { localStorage: Record<string, unknown>, sessionStorage: Record<string, unknown> }
interface FakePage {
  tabId: () => string
  dispatch: (type: string, event?: object) => void
  document: { prerendering?: boolean }
}

const HOUR = 3_600_000

/** Loads the module in pages of our own, whose browser delivers storage and events in any order and has a clock that the test sets. */
async function fakePages (t: Test) {
  const { fastify } = await buildApp(t, { browser: '/tab-id.js' })
  const { code } = await transform((await fastify.inject('/tab-id.js')).body, { format: 'iife' })
  const clock = { now: Date.now() }
  /** A page that is the entry `key` of the tab's history, after the entry `from`. */
  const load = (tab: FakeTab, key: string, from?: string, prerendering = false): FakePage => {
    const listeners: Array<[type: string, listener: (event: object) => void]> = []
    const document = { prerendering }
    const page = vm.createContext({
      ...tab,
      crypto,
      document,
      navigation: { currentEntry: { key }, activation: { from: from === undefined ? null : { key: from } } },
      addEventListener: (type: string, listener: (event: object) => void) => listeners.push([type, listener])
    })
    page.Date = { now: () => clock.now }
    vm.runInContext('globalThis.self = globalThis.top = globalThis', page)
    vm.runInContext(code, page)
    return {
      tabId: page.octaStar.tabId,
      document,
      dispatch: (type, event = {}) => { for (const [name, listener] of listeners) if (name === type) listener(event) }
    }
  }
  return { clock, load }
}

t.test('a tab keeps its id if it was away for six days, and gets a new id after seven', async t => {
  for (const [days, keeps] of [[6, true], [7, false]] as const) {
    const { clock, load } = await fakePages(t)
    const tab = { localStorage: {}, sessionStorage: {} }
    const page = load(tab, 'one')
    page.dispatch('pagehide')
    clock.now += days * 24 * HOUR
    t.equal(load(tab, 'two', 'one').tabId() === page.tabId(), keeps, `${days} days`)
  }
})

t.test('what a tab that was closed leaves in localStorage is swept after a week, and nothing else of the site\'s', async t => {
  const { clock, load } = await fakePages(t)
  const localStorage: Record<string, unknown> = { 'the site\'s own': 1 }
  load({ localStorage, sessionStorage: {} }, 'one').dispatch('pagehide')
  t.equal(Object.keys(localStorage).length, 2)
  clock.now += 6 * 24 * HOUR
  load({ localStorage, sessionStorage: {} }, 'two')
  t.equal(Object.keys(localStorage).length, 2)
  clock.now += 24 * HOUR
  load({ localStorage, sessionStorage: {} }, 'three')
  t.strictSame(localStorage, { 'the site\'s own': 1 })
})

t.test('a prerendered page takes the tab\'s id when it is shown, before or after the news that the last page is left', async t => {
  for (const order of ['left, told, shown', 'shown, left, told']) {
    const { load } = await fakePages(t)
    const tab = { localStorage: {}, sessionStorage: {} }
    const front = load(tab, 'front')
    const next = load(tab, 'next', 'front', true)
    t.not(next.tabId(), front.tabId(), 'while prerendered it has an id of its own')
    for (const step of order.split(', ')) {
      if (step === 'left') front.dispatch('pagehide')
      if (step === 'told') next.dispatch('storage')
      if (step === 'shown') next.dispatch('prerenderingchange')
    }
    t.equal(next.tabId(), front.tabId(), order)
    t.strictSame(tab.localStorage, {}, 'no other tab can take the id')
    next.dispatch('pagehide')
    t.equal(load(tab, 'third', 'next').tabId(), front.tabId(), 'the page after it has the same id')
  }
})

t.test('a prerendered page takes the id while localStorage does not show yet that the id is free', async t => {
  const { load } = await fakePages(t)
  const sessionStorage = {}
  const front = load({ localStorage: {}, sessionStorage }, 'front')
  const localStorage: Record<string, unknown> = {}
  const next = load({ localStorage, sessionStorage }, 'next', 'front', true)
  front.dispatch('pagehide')
  next.dispatch('prerenderingchange')
  t.equal(next.tabId(), front.tabId())
  localStorage[`octa-star-tab-id${next.tabId()}`] = Date.now()
  next.dispatch('storage')
  t.strictSame(localStorage, {}, 'no other tab can take the id')
})

t.test('a prerendered page takes no id that was copied from another tab, whose page has the id', async t => {
  const { load } = await fakePages(t)
  const localStorage = {}
  const tab = { localStorage, sessionStorage: {} }
  const page = load(tab, 'one')
  const copy = { localStorage, sessionStorage: { ...tab.sessionStorage } }
  for (const from of ['without the module', undefined]) {
    const next = load(copy, 'next', from, true)
    next.dispatch('prerenderingchange')
    t.not(next.tabId(), page.tabId())
    t.match(next.tabId(), /^[0-9a-f]{32}$/)
    copy.sessionStorage = { ...tab.sessionStorage }
  }
})
