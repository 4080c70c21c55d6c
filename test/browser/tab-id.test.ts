// In Chromium: a tab keeps its id wherever it goes, no two tabs share one, and each has one live stream.
import t, { type Test } from 'tap'
import { browserOptions, launch } from '../kit/chromium.ts'
import { site as siteOf, wander } from '../kit/site.ts'

const site = (t: Test) => siteOf(t, `<script type="module">
  const open = () => { globalThis.source = new EventSource('/stream?tab=' + octaStar.tabId()) }
  open()
  // A page that comes back from the cache has lost its stream to the page after it.
  addEventListener('pageshow', event => { if (event.persisted) open() })
</script>`, { tabId: request => (request.query as { tab?: string }).tab })

t.test('navigation, reload, back and forward: one live stream after each, the same tab id all along', browserOptions, async t => {
  const visited = await site(t)
  const { streams } = visited
  const { newTab, errors } = await launch(t)
  await wander(await newTab(), visited)
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
