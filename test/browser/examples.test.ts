// The pages of the examples in Chromium: what each page shows, one stream per tab, and that the page fits a phone. test/example-datastar.test.ts,
// test/browser/demo.test.ts and test/demo.test.ts test the shop on Datastar and the demos.
import { once } from 'node:events'
import { createRequire } from 'node:module'
import { transform } from 'esbuild'
import t, { type Test } from 'tap'
import { startChild, startExample } from '../kit/child.ts'
import { connect } from '../kit/client.ts'
import { read } from '../kit/document.ts'
import { launch, optionsFor, type Browser, type Tab } from '../kit/engines.ts'

const require = createRequire(import.meta.url)
const options = optionsFor('chromium')

/** Starts a program that prints its address. */
async function start (t: Test, code: string): Promise<string> {
  const { lines, errors, exited } = startChild(t, '--input-type=module', { PORT: '0' }, [], ['--eval', code])
  const [line] = await Promise.race([once(lines, 'line'), exited.then(() => { throw new Error(errors()) })])
  return /http:\/\/localhost:\d+/.exec(line)![0].replace('localhost', '127.0.0.1')
}

const shows = (tab: Tab, text: string) => tab.until(text => document.body.innerText.includes(text), text)

/** Loads the page in a frame as wide as a phone: no part of the page may need scrolling to the side. */
async function fitsPhone (t: Test, tab: Tab): Promise<void> {
  const width = await tab.run(async () => {
    const frame = document.createElement('iframe')
    frame.style.width = '360px'
    frame.src = '/'
    document.body.append(frame)
    await new Promise(resolve => { frame.onload = resolve })
    const { scrollWidth } = frame.contentDocument!.documentElement
    frame.remove()
    return scrollWidth
  })
  t.ok(width <= 360, `${width} px`)
}

/** Chromium asks for an icon if a page, or a script that is shown as a page, names none. */
const noErrors = async (t: Test, browser: Browser) => t.strictSame((await browser.errors()).filter(error => !error.includes('favicon.ico')), [])

t.test('basic: the page shows the time and the number of live streams, one for each tab', options, async t => {
  const code = read('examples/basic/server.js').replace('port: 3000', "port: 0, host: '127.0.0.1'")
  const url = await start(t, `${code}\nconsole.log(\`http://localhost:\${fastify.server.address().port}\`)`)
  const browser = await launch(t, 'chromium')
  const first = await browser.newTab(url)
  await shows(first, 'live streams: 1')
  for (let reload = 0; reload < 3; reload++) {
    await first.reload()
    await shows(first, 'live streams: 1')
  }
  const second = await browser.newTab(url)
  await shows(second, 'live streams: 2')
  await second.goto(`${url}/octa-star/tab-id.js`)
  await second.back()
  await shows(second, 'live streams: 2')
  await fitsPhone(t, second)
  await noErrors(t, browser)
})

const startOrders = async (t: Test) => (await startExample(t, 'examples/htmx/server.js', { HTMX_JS: require.resolve('htmx.org/dist/htmx.js'), HTMX_SSE_JS: require.resolve('htmx-ext-sse/dist/sse.js') })).url

const post = async (url: string, body: string) => (await fetch(`${url}/orders`, { method: 'POST', headers: { 'content-type': 'application/x-www-form-urlencoded' }, body })).status

async function order (tab: Tab, what: string): Promise<void> {
  await tab.run(what => { document.querySelector('input')!.value = what }, what)
  await tab.click('button')
  await shows(tab, `Thank you! Ordered: ${what}`)
}

t.test('htmx: an order arrives in all tabs, and each tab says where the order was made', options, async t => {
  const url = await startOrders(t)
  const browser = await launch(t, 'chromium')
  const [first, second] = [await browser.newTab(url), await browser.newTab(url)]
  const has = (tab: Tab, ...orders: string[]) => tab.until(orders => [...document.querySelectorAll('#orders li')].map(item => item.textContent).join() === orders.join(), orders)
  for (const tab of [first, second]) await has(tab, 'None yet')
  await order(second, 'tea')
  await shows(first, 'Ordered in another tab: tea')
  await has(first, 'tea')
  await order(second, '<b>&')
  await shows(first, 'Ordered in another tab: <b>&')
  await has(first, '<b>&', 'tea')

  // The page is hidden in the back/forward cache while an order comes.
  await second.goto(`${url}/octa-star/tab-id.js`)
  t.equal(await post(url, 'what=milk'), 204)
  await second.back()
  await has(second, 'milk', '<b>&', 'tea')
  await order(second, 'salt')
  await has(first, 'salt', 'milk', '<b>&', 'tea')

  t.equal(await post(url, 'what=+'), 400)
  t.equal((await connect(`${url}/orders`, { method: 'POST', headers: { 'sec-fetch-site': 'cross-site' } })).status, 403)
  await fitsPhone(t, second)
  await noErrors(t, browser)
})

t.test('htmx: a page whose tab has opened a newer stream closes its EventSource at the farewell, and stays away', options, async t => {
  const url = await startOrders(t)
  const tab = await (await launch(t, 'chromium')).newTab(url)
  await shows(tab, 'None yet')
  const id = await tab.run(() => {
    addEventListener('htmx:sseClose', event => { (globalThis as any).closedBy = (event as CustomEvent).detail.type })
    return (globalThis as any).octaStar.tabId() as string
  })
  const newer = await connect(`${url}/stream?tab=${id}`)
  await tab.until(() => (globalThis as any).closedBy === 'message')
  // If the page had come back, the page's stream would have ended the newer stream.
  await post(url, 'what=tea')
  await newer.event(2)
  t.match(newer.events.map(({ event }) => event), ['orders', 'orders'])
})

t.test('NestJS: the page shows the time, and an order arrives in all tabs', options, async t => {
  const { code } = await transform(read('examples/nestjs/main.ts'), { loader: 'ts', tsconfigRaw: { compilerOptions: { experimentalDecorators: true } } })
  const url = await start(t, code)
  const browser = await launch(t, 'chromium')
  const [first, second] = [await browser.newTab(url), await browser.newTab(url)]
  const showsTime = (tab: Tab) => tab.until(() => /^\d{4}-/.test(document.getElementById('time')!.textContent!))
  for (const tab of [first, second]) await showsTime(tab)
  await second.click('button')
  for (const tab of [first, second]) await tab.until(() => document.querySelector('#orders li')?.textContent === 'tea')

  // The page comes back from the back/forward cache as it was, without the time until its new stream is open.
  await second.run(() => { document.getElementById('time')!.textContent = '' })
  await second.goto(`${url}/octa-star/tab-id.js`)
  await second.back()
  await showsTime(second)
  await second.click('button')
  for (const tab of [first, second]) await tab.until(() => document.querySelectorAll('#orders li').length === 2)
  await fitsPhone(t, second)
  await noErrors(t, browser)
})
