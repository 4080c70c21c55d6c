// The example shop: a POST patches the user's tabs and everybody's stock, in a single process and in two processes, over HTTP and in a browser.
import { randomUUID } from 'node:crypto'
import t, { type Test } from 'tap'
import { withSignals } from './kit/app.ts'
import { startExample } from './kit/child.ts'
import { browserOptions, launch } from './kit/chromium.ts'
import { connect, type Client } from './kit/client.ts'
import { redisOptions, redisServer } from './kit/redis.ts'
import { datastarBundles } from './kit/site.ts'

const openShop = async (t: Test, env: Record<string, string> = {}) => (await startExample(t, 'examples/datastar/server.js', env)).url

/** Starts two processes of the shop on a Redis. */
async function openTwice (t: Test, env: Record<string, string> = {}) {
  const { port } = await redisServer(t)
  const REDIS_URL = `redis://127.0.0.1:${port}`
  return await Promise.all([openShop(t, { REDIS_URL, ...env }), openShop(t, { REDIS_URL, ...env })])
}

/** A user with a cookie of the shop. */
function newUser () {
  const cookie = `shopper=${randomUUID()}`
  return {
    /** Opens a tab's stream, and resolves when the tab has the stock and the orders. */
    async open (url: string, tabId: string) {
      const tab = await connect(url + withSignals('/stream', { tabId }), { headers: { cookie } })
      await tab.event(2)
      return tab
    },
    /** Orders in a tab, and resolves to the status of the response. */
    async order (url: string, product: string, tabId?: string) {
      const headers = { cookie, 'content-type': 'application/json' }
      return (await fetch(`${url}/orders/${product}`, { method: 'POST', headers, body: JSON.stringify({ tabId }) })).status
    },
    async page (url: string, path = '/') {
      return await (await fetch(url + path, { headers: { cookie } })).text()
    }
  }
}

/** The text of each event, from event number `from` to the first event that contains `last`. */
async function until (tab: Client, from: number, last: string) {
  let end = from
  while (!(await tab.event(end)).data.includes(last)) end++
  return tab.events.slice(from - 1, end).map(({ data }) => data)
}

/** Returns the texts of the notices among the events of `until`. */
const notices = (events: string[]) => events.flatMap(data => /id="notice" role="status">(.*)<\/p>/.exec(data)?.[1] ?? [])

/** Orders in tab a1 at `second`. Tab a1 streams from `first`, and so does Bob's tab with the same id. Tab a2 streams from `second`. */
async function orderAcross (t: Test, first: string, second: string) {
  const [ann, bob] = [newUser(), newUser()]
  const [a1, a2, b1] = await Promise.all([ann.open(first, 'a1'), ann.open(second, 'a2'), bob.open(first, 'a1')])
  t.equal(await ann.order(second, 'pan', 'a1'), 204)

  for (const [tab, notice] of [[a1, 'Thank you! Ordered: A copper pan'], [a2, 'Ordered in another tab: A copper pan']] as const) {
    const events = await until(tab, 3, '"pan":2')
    t.strictSame(notices(events), [notice])
    t.match(events.join(), '<li>A copper pan</li>')
  }
  for (const url of [first, second]) t.match(await ann.page(url, '/office'), '<li>A copper pan</li>')

  // Events of Ann's order would come to Bob before the events of Bob's own order, because Ann's order has been answered.
  t.equal(await bob.order(second, 'cups'), 204)
  const events = await until(b1, 3, '"cups":23')
  t.ok(events.includes('signals {"_stock":{"cups":24,"lemons":40,"pan":2,"paper":60,"pen":12,"lamp":2}}'), 'everybody gets the stock')
  t.strictSame(notices(events), ['Ordered in another tab: Espresso cups'])
  t.notMatch(events.filter(data => data.startsWith('elements')).join(), 'pan')
  t.notMatch(await bob.page(second), '<li>A copper pan</li>')

  t.equal(await ann.order(first, 'pan', 'a1'), 204)
  t.equal(await bob.order(second, 'pan', 'a1'), 204)
  await until(b1, 3, '"pan":0')
  const before = a1.events.length
  t.equal(await ann.order(second, 'pan', 'a1'), 409)
  t.strictSame(notices(await until(a1, before + 1, 'Sold out')), ['Sold out: A copper pan'])

  // The tab goes to a page of the second process.
  const next = await ann.open(second, 'a1')
  t.equal(await a1.ended, 'clean')
  t.equal(a1.events.at(-1)!.event, 'octa-star-closed')
  for (const tab of [next, a2, b1]) tab.leave()
}

t.test('the pages are whole, and load Datastar from its CDN', async t => {
  const url = await openShop(t)
  for (const [path, name] of [['/', 'Espresso cups'], ['/office', 'Printer paper']] as const) {
    const page = await (await fetch(url + path)).text()
    t.match(page, `<span>${name}</span>`)
    t.match(page, '<section id="orders">')
    t.match(page, 'src="https://cdn.jsdelivr.net/gh/starfederation/datastar@1.')
    t.match(page, '{tabId: octaStar.tabId()')
  }
  for (const path of ['/style.css', '/octa-star/tab-id.js']) t.equal((await fetch(url + path)).status, 200, path)
  t.equal((await fetch(`${url}/datastar.js`)).status, 404)
})

t.test('a browser gets a cookie that names the user, and another browser gets another cookie', async t => {
  const url = await openShop(t)
  const [first, second] = [await fetch(url), await fetch(url)].map(({ headers }) => headers.get('set-cookie')!)
  t.match(first, /^shopper=[\da-f-]{36}; Path=\/; HttpOnly; SameSite=Lax$/)
  t.not(first, second)
  t.equal((await fetch(url, { headers: { cookie: first!.split(';')[0]! } })).headers.get('set-cookie'), null)
})

t.test('an order reaches the tab that sent the order, the other tabs of the user, and everybody\'s stock', async t => {
  const url = await openShop(t)
  await orderAcross(t, url, url)
})

t.test('two processes are one shop: an order in one process reaches tabs of the other process in the same way', redisOptions, async t => {
  const [first, second] = await openTwice(t)
  await orderAcross(t, first, second)
})

t.test('of twenty orders at once in two processes, three orders get the three pieces', redisOptions, async t => {
  const [first, second] = await openTwice(t)
  const statuses = await Promise.all(Array.from({ length: 20 }, (_, i) => newUser().order(i % 2 === 0 ? first : second, 'pan', 'a')))
  t.strictSame(statuses.sort(), [...Array(3).fill(204), ...Array(17).fill(409)])
  t.match(await newUser().page(second), '"pan":0')
})

t.test('an order of an unknown product, or with a bad tab id, is refused and changes nothing', async t => {
  const url = await openShop(t)
  const ann = newUser()
  const before = await ann.page(url)
  for (const product of ['bread', 'constructor', '__proto__']) t.equal(await ann.order(url, product, 'a'), 404, product)
  t.equal(await ann.order(url, 'cups', ''), 400)
  t.equal(await ann.page(url), before)
})

t.test('a post from a page of another site is refused, and changes nothing', async t => {
  const url = await openShop(t)
  // Unlike fetch, this client lets a test set the headers that only browsers set.
  const post = async (site: string) => (await connect(`${url}/orders/lamp`, { method: 'POST', headers: { 'sec-fetch-site': site } })).status
  for (const site of ['cross-site', 'same-site']) t.equal(await post(site), 403, site)
  t.match(await newUser().page(url), '"lamp":2')
  t.equal(await post('same-origin'), 204)
  t.match(await newUser().page(url), '"lamp":1')
})

t.test('with Redis the shop stops on a signal, and stops with one clear line if the port is in use', redisOptions, async t => {
  const REDIS_URL = `redis://127.0.0.1:${(await redisServer(t)).port}`
  const { url, signal, exited } = await startExample(t, 'examples/datastar/server.js', { REDIS_URL })
  await t.rejects(openShop(t, { REDIS_URL, PORT: new URL(url).port }), { message: /did not start: Port \d+ is in use\. Choose another port: PORT=3001 npm run example:datastar\n$/ })
  const tab = await newUser().open(url, 'a')
  signal('SIGINT')
  t.strictSame(await exited, [0, null])
  t.equal(await tab.ended, 'broken', 'so that the client reconnects')
})

// Betas do not know the attributes of the example.
const released = datastarBundles().filter(({ name }) => /v1\.\d+\.\d+$/.test(name))
const options = { skip: browserOptions.skip || redisOptions.skip || (released.length === 0 ? 'DATASTAR_JS names no bundle of Datastar 1.x' : false as const) }

t.test('in a browser two tabs of two processes show the order, and another browser shows only the stock', options, async t => {
  for (const { name, file } of released) {
    const [first, second] = await openTwice(t, { DATASTAR_JS: file! })
    const [ann, bob] = [await launch(t), await launch(t)]
    const [a1, a2, b1] = [await ann.newTab(), await ann.newTab(), await bob.newTab()]
    const streaming = [a1, a2, b1].map(tab => tab.waitForResponse(/\/stream/))
    await a1.goto(`${first}/`)
    await a2.goto(`${second}/`)
    await b1.goto(`${second}/`)
    await Promise.all(streaming)

    await a1.click('li:has-text("pan") button')
    await a1.locator('#notice:has-text("Thank you! Ordered: A copper pan")').waitFor()
    await a2.locator('#notice:has-text("Ordered in another tab: A copper pan")').waitFor()
    for (const tab of [a1, a2]) await tab.locator('#orders li:has-text("A copper pan")').waitFor()
    for (const tab of [a1, a2, b1]) await tab.locator('li:has-text("pan") .left:has-text("2 left")').waitFor()
    t.equal(await b1.textContent('#notice'), '', name)

    await a1.click('nav a:last-child')
    await a1.click('li:has-text("lamp") button')
    await a2.locator('#orders li:has-text("A desk lamp")').waitFor()
    await a1.click('li:has-text("lamp") button')
    await a1.locator('li:has-text("lamp") button:disabled').waitFor()
    t.equal(await a1.textContent('li:has-text("lamp") .left'), '0 left')
    t.strictSame([...ann.errors, ...bob.errors], [])
  }
})
