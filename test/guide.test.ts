// The guide, as a reader follows it: after each step the program runs, and shows what the guide says.
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { EventSource } from 'eventsource'
import { JSDOM } from 'jsdom'
import t, { type Test } from 'tap'
import { body as browserModule } from '../lib/browser-module.ts'
import { withSignals } from './kit/app.ts'
import { startChild, type Child } from './kit/child.ts'
import { connect, type Client } from './kit/client.ts'
import { guideSteps } from './kit/guide.ts'
import { redisOptions, redisServer } from './kit/redis.ts'
import { root } from './kit/run.ts'

const steps = guideSteps()

interface Program extends Child { url: string }

/** Starts the program as it is after a step, and resolves when the program listens. */
async function start (t: Test, step: number, env: Record<string, string> = {}): Promise<Program> {
  const found = steps.find(({ heading }) => heading.startsWith(`Step ${step}:`))!
  // Inside the repository, where the imports of the program find the packages, and this package.
  const folder = join(root, '.tap', 'guide', `${process.pid}-${step}`)
  await mkdir(folder, { recursive: true })
  t.teardown(() => rm(folder, { recursive: true, force: true }))
  for (const [file, text] of Object.entries(found.files)) await writeFile(join(folder, file), text)
  const child = startChild(t, join(folder, 'server.mjs'), { PORT: '0', ...env })
  for await (const line of child.lines) {
    const url = /Server listening at (http:\/\/127\.0\.0\.1:\d+)/.exec(line)?.[1]
    // The loop closes the interface that it reads from. Nothing else is read, and a pipe that is full stops nobody before 64 KiB.
    if (url !== undefined) return { ...child, url }
  }
  throw new Error(`${found.heading} did not start: ${child.errors()}`)
}

/** A browser: it keeps the cookie of its last response. */
class Browser {
  cookie = ''
  readonly #url: string

  constructor (url: string) {
    this.#url = url
  }

  async fetch (path: string, init: RequestInit = {}, url = this.#url): Promise<Response> {
    const response = await fetch(url + path, { ...init, headers: { ...init.headers as Record<string, string>, cookie: this.cookie } })
    const [cookie] = response.headers.getSetCookie()
    if (cookie !== undefined) this.cookie = cookie.split(';')[0]!
    return response
  }

  /** Opens the page in a tab, with the stream that Datastar opens. */
  async openTab (tabId: string): Promise<{ html: string, stream: Client }> {
    const html = await (await this.fetch('/')).text()
    const path = /data-init="@get\('(.+?)'/.exec(html)![1]!
    return { html, stream: await connect(this.#url + withSignals(path, { tabId, _price: undefined }), { headers: { cookie: this.cookie } }) }
  }

  /** Presses a button whose expression is `@post`, in a tab with Datastar. */
  async press (path: string, tabId: string): Promise<Response> {
    return await this.fetch(path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ tabId }) })
  }
}

/** Resolves to the first event whose data matches. */
async function eventOf (client: Client, data: RegExp): Promise<string> {
  for (let count = 1; ; count++) {
    const event = await client.event(count)
    if (data.test(event.data)) return event.data
  }
}

async function until (condition: () => unknown): Promise<void> {
  while (!await condition()) await new Promise(resolve => setTimeout(resolve, 5))
}

t.test('step 1: the page has a stream that shows the list, and a reload ends the tab\'s old stream', async t => {
  const { url } = await start(t, 1)
  const browser = new Browser(url)
  let last: Client | undefined
  for (let load = 0; load < 3; load++) {
    const { html, stream } = await browser.openTab('a')
    t.match(html, '<h1>Orders of a guest</h1>')
    t.match(html, '<ol id="orders"></ol>')
    t.equal((await stream.event(1)).data, 'elements <ol id="orders"></ol>')
    if (last !== undefined) t.equal(await last.ended, 'clean')
    last = stream
    t.strictSame(await (await fetch(`${url}/live`)).json(), { live: 1 })
  }
  t.equal((await fetch(`${url}/octa-star/tab-id.js`)).status, 200)
})

t.test('the page gives Datastar the tab id of the module, and each button posts to a route of the last step with Datastar', async t => {
  const { url } = await start(t, 5)
  const browser = new Browser(url)
  await browser.fetch('/')
  await browser.press('/orders/pan', 'a')
  const html = await (await browser.fetch('/')).text()
  const { window } = new JSDOM(`<script>(() => { ${browserModule.replace('export function', 'function')} })()</script>`, { url, runScripts: 'dangerously' })
  const body = new JSDOM(html).window.document.body
  t.match((window as any).eval(`(${body.dataset.signals})`).tabId, /^[0-9a-f]{32}$/)
  const expressions = [...body.querySelectorAll('button')].map(button => button.getAttribute('data-on:click')!)
  t.equal(expressions.length, 6)
  for (const expression of expressions) {
    const path = /^@post\('(.+)'\)$/.exec(expression)![1]!
    t.ok((await browser.press(path, 'a')).ok, path)
  }
})

t.test('step 2: an order reaches the user\'s tabs, each with its own notice, and no other user', async t => {
  const { url } = await start(t, 2)
  const [ann, bob] = [new Browser(url), new Browser(url)]
  const { stream: first } = await ann.openTab('a')
  const { stream: second } = await ann.openTab('b')
  const { stream: other } = await bob.openTab('a')
  t.equal((await ann.press('/orders/pan', 'a')).status, 204)
  t.equal((await ann.press('/orders/tank', 'a')).status, 404)
  t.match(await eventOf(first, /notice/), 'Thank you for ordering a pan.')
  t.match(await eventOf(second, /notice/), 'Another tab has ordered a pan.')
  const list = await eventOf(first, /pan: ordered/)
  await ann.press(/@post\('(\/cancel\/.+?)'\)/.exec(list)![1]!, 'b')
  for (const tab of [first, second]) await eventOf(tab, /pan: cancelled/)
  await bob.press('/orders/lamp', 'a')
  await eventOf(other, /lamp: ordered/)
  t.notMatch(other.text, 'pan')
})

t.test('step 3: a logout ends the streams on every device, and the sessions belong to guests from then on', async t => {
  const { url } = await start(t, 3)
  const [laptop, phone] = [new Browser(url), new Browser(url)]
  for (const device of [laptop, phone]) {
    const { stream } = await device.openTab('a')
    t.equal(await (await device.press('/login/ann', 'a')).text(), 'location.reload()')
    t.equal(await stream.ended, 'clean', 'the guest\'s stream has ended')
  }
  t.equal((await laptop.press('/login/eve', 'a')).status, 404)
  const tabs = [await laptop.openTab('a'), await phone.openTab('b')]
  for (const { html } of tabs) t.match(html, '<h1>Orders of ann</h1>')
  await phone.press('/orders/lamp', 'b')
  await eventOf(tabs[0]!.stream, /lamp: ordered/)
  t.ok((await laptop.press('/logout', 'a')).ok)
  for (const { stream } of tabs) {
    t.equal(await stream.ended, 'clean')
    await eventOf(stream, /Reload this page/)
    t.equal(stream.events.at(-1)!.event, 'octa-star-closed')
  }
  for (const device of [laptop, phone]) t.match(await (await device.fetch('/')).text(), '<h1>Orders of a guest</h1>')
})

t.test('step 4: the price changes, and a page that is closed leaves no listener', async t => {
  const { url } = await start(t, 4)
  const browser = new Browser(url)
  const { stream } = await browser.openTab('a')
  t.match(await eventOf(stream, /_price/), /^signals \{"_price":\d+\}$/)
  await eventOf(stream, /elements <ol/)
  const listeners = async () => (await (await fetch(`${url}/listeners`)).json()).listeners
  t.equal(await listeners(), 1)
  stream.leave()
  await until(async () => await listeners() === 0)
})

t.test('step 5: a signal ends the program at once, and breaks the stream off', async t => {
  const program = await start(t, 5)
  const { stream } = await new Browser(program.url).openTab('a')
  program.signal('SIGINT')
  t.strictSame(await program.exited, [0, null])
  t.equal(await stream.ended, 'broken')
})

interface Page {
  press: (text: string) => void
  text: (selector: string) => string
  reloads: () => number
}

/** Opens the page with the EventSource in a tab of `browser`. */
async function openPage (t: Test, url: string, browser: Browser): Promise<Page> {
  const html = await (await browser.fetch('/', {}, url)).text()
  const sources: EventSource[] = []
  let reloads = 0
  // jsdom runs no modules: the module that the plugin serves becomes a script. It does not navigate: the test counts the reloads.
  const { window } = new JSDOM(html
    .replace(/<script type="module">\s*import \{ tabId \} from '\/octa-star\/tab-id.js'/, `<script>(() => { ${browserModule.replace('export function', 'function')} })()</script><script>const { tabId } = octaStar`)
    .replace('location.reload()', 'reload()'), {
    url,
    runScripts: 'dangerously',
    beforeParse (window: any) {
      window.reload = () => { reloads++ }
      window.fetch = (path: string, init: RequestInit) => browser.fetch(path, init, url)
      window.EventSource = class extends EventSource {
        constructor (path: string) {
          super(new URL(path, url), { fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, cookie: browser.cookie } }) })
          sources.push(this)
        }
      }
    }
  })
  t.teardown(() => {
    for (const source of sources) source.close()
    window.close()
  })
  return {
    press (text) {
      const button = [...window.document.querySelectorAll('button')].find(button => button.textContent === text)!
      button.dispatchEvent(new window.Event('click', { bubbles: true }))
    },
    text: selector => window.document.querySelector(selector)!.textContent!,
    reloads: () => reloads
  }
}

/** What steps 6 and 7 show in two tabs of a browser, which may be of two processes. */
async function shop (t: Test, first: string, second: string): Promise<void> {
  const browser = new Browser(first)
  const guest = await openPage(t, first, browser)
  guest.press('Sign in as Ann')
  await until(() => guest.reloads() === 1)
  const [a, b] = [await openPage(t, first, browser), await openPage(t, second, browser)]
  t.equal(a.text('h1'), 'Orders of ann')
  await until(() => /^\d+$/.test(a.text('#price')) && /^\d+$/.test(b.text('#price')))
  a.press('Order a pan')
  await until(() => a.text('#notice') === 'Thank you for ordering a pan.' && b.text('#notice') === 'Another tab has ordered a pan.')
  for (const tab of [a, b]) t.equal(tab.text('#orders li'), 'pan: ordered Cancel')
  b.press('Cancel')
  await until(() => a.text('#orders li') === 'pan: cancelled ' && b.text('#orders li') === 'pan: cancelled ')
  a.press('Log out')
  await until(() => a.reloads() === 1 && b.text('#notice') === 'You have signed in or out. Reload this page.')
  const after = await openPage(t, second, browser)
  t.equal(after.text('h1'), 'Orders of a guest')
}

t.test('step 6: with an EventSource the page shows the same', async t => {
  const { url } = await start(t, 6)
  await shop(t, url, url)
})

t.test('step 7: with a Redis two processes are one shop', redisOptions, async t => {
  const REDIS_URL = `redis://127.0.0.1:${(await redisServer(t)).port}`
  const [first, second] = [await start(t, 7, { REDIS_URL }), await start(t, 7, { REDIS_URL })]
  await shop(t, first.url, second.url)
  for (const { signal, exited, errors } of [first, second]) {
    signal('SIGTERM')
    t.strictSame(await exited, [0, null])
    t.equal(errors(), '')
  }
})
