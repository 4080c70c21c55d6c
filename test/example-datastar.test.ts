// The example shop: its pages are whole, its streams bring what changes, and one tab has one stream, over HTTP and in a browser.
import t, { type Test } from 'tap'
import { withSignals } from './kit/app.ts'
import { startExample } from './kit/child.ts'
import { browserOptions, launch } from './kit/chromium.ts'
import { connect } from './kit/client.ts'
import { datastarClients } from './kit/site.ts'

const openShop = async (t: Test, datastarJs?: string) => (await startExample(t, 'examples/datastar/server.js', datastarJs === undefined ? {} : { DATASTAR_JS: datastarJs })).url

t.test('the pages are whole, and load Datastar from its CDN', async t => {
  const url = await openShop(t)
  for (const [path, part] of [['/', '<ul id="orders">'], ['/summary', '<dl id="summary">']]) {
    const page = await (await fetch(url + path)).text()
    t.match(page, part)
    t.match(page, 'src="https://cdn.jsdelivr.net/gh/starfederation/datastar@1.')
    t.match(page, '{tabId: octaStar.tabId()}')
  }
  for (const path of ['/style.css', '/octa-star/tab-id.js']) t.equal((await fetch(url + path)).status, 200, path)
  t.equal((await fetch(`${url}/datastar.js`)).status, 404)
})

t.test('an order reaches the open page, a page of the same tab ends its stream, and markup in an order is text', async t => {
  const url = await openShop(t)
  const post = (path: string, body: object) => fetch(url + path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })
  const orders = await connect(url + withSignals('/orders/stream', { tabId: 'a' }))
  t.match(await orders.event(1), { event: 'datastar-patch-elements', data: /elements <ul id="orders">/ })

  t.strictSame(await (await post('/orders', { tabId: 'a', item: '<b>Bread</b>' })).json(), { item: '' })
  let count = 1
  while (!(await orders.event(count)).data.includes('Bread')) count++
  t.match((await orders.event(count)).data, '&#60;b&#62;Bread&#60;/b&#62;')

  const summary = await connect(url + withSignals('/summary/stream', { tabId: 'a' }))
  t.match(await summary.event(1), { data: /elements <dl id="summary">/ })
  await orders.ended
  t.equal(orders.events.at(-1)!.event, 'octa-star-closed')

  t.equal((await post('/orders/1/advance', {})).status, 204)
  t.equal((await post('/orders/999/advance', {})).status, 404)
  for (const item of [undefined, '', ' ', 'x'.repeat(61)]) t.equal((await post('/orders', { item })).status, 400)
  summary.leave()
})

t.test('a post from a page of another site is refused, and changes nothing', async t => {
  const url = await openShop(t)
  const post = async (site: string, item: string) => {
    const headers = { 'content-type': 'application/json', 'sec-fetch-site': site }
    // Unlike fetch, this client lets a test set the headers that only browsers set.
    return (await connect(`${url}/orders`, { method: 'POST', headers, body: JSON.stringify({ item }) })).status
  }
  for (const site of ['cross-site', 'same-site']) t.equal(await post(site, 'Forged order'), 403, site)
  t.equal(await post('same-origin', 'Own order'), 200)
  const page = await (await fetch(url)).text()
  t.match(page, 'Own order')
  t.notMatch(page, 'Forged order')
})

// Betas know other attributes than those of the example.
const released = datastarClients().filter(({ name }) => /v1\.\d+\.\d+$/.test(name))
const options = { ...browserOptions, skip: browserOptions.skip || (released.length === 0 ? 'DATASTAR_JS names no bundle of Datastar 1.x' : false as const) }

t.test('in a browser an order is placed and goes on, and the next page keeps itself up to date', options, async t => {
  for (const { name, file } of released) {
    const url = await openShop(t, file)
    const { newTab, errors } = await launch(t)
    const tab = await newTab()
    await tab.goto(`${url}/`)
    await tab.fill('input', 'Bread & "butter"')
    await tab.click('form button')
    const bread = tab.locator('li:has-text("Bread")')
    await bread.waitFor()
    t.equal(await tab.inputValue('input'), '', `${name}: the field is empty again`)
    await bread.locator('button').click()
    await tab.waitForFunction(() => !(document.querySelector('li:first-child .step') ?? document.body).textContent!.includes('received'))
    await tab.click('nav a:last-child')
    const before = await tab.textContent('#summary')
    await tab.waitForFunction(before => document.querySelector('#summary')!.textContent !== before, before)
    t.strictSame(errors, [])
  }
})
