// In three engines: after which ends of a stream a client comes back, and after which ends the client stops for good.
import { once } from 'node:events'
import http from 'node:http'
import t, { type Test } from 'tap'
import type { CloseReason } from '../../lib/index.ts'
import { ENGINES, launch, optionsFor, type Browser, type Tab } from '../kit/engines.ts'
import { datastarBody, datastarClients, site, type Site, type SiteOptions } from '../kit/site.ts'

interface Visited { site: Site, tab: Tab, reopen: () => Promise<Site> }
interface Case { name: string, visit: () => Promise<Visited>, end: (visited: Visited) => Promise<void> }

// Opens the site in a tab, and waits for the page's stream.
async function visit (t: Test, browser: Browser, body: string, options: SiteOptions): Promise<Visited> {
  const visited = await site(t, body, options)
  const tab = await browser.newTab(visited.app.url('/'))
  await visited.until(1, 1)
  const port = visited.app.port()
  // Opens the site again, after a shutdown.
  const reopen = () => site(t, body, { ...options, port })
  return { site: visited, tab, reopen }
}

// Shuts the server down, and takes its place until `count` requests have come, which `answer` answers. Then the next server opens.
async function outage (visited: Visited, count: number, answer: (response: http.ServerResponse) => void): Promise<Site> {
  const port = visited.site.app.port()
  await visited.site.app.fastify.close()
  let left = count
  const server = http.createServer((_request, response) => {
    answer(response)
    if (--left === 0) server.close()
  }).listen(port, '127.0.0.1')
  await once(server, 'close')
  return await visited.reopen()
}

const SCRIPT = `
  globalThis.sources = []
  globalThis.openStream = () => {
    const signals = encodeURIComponent(JSON.stringify({ tabId: octaStar.tabId() }))
    sources.push(new EventSource('/stream?datastar=' + signals))
  }
  openStream()`

function eventSourceCases (t: Test, browser: Browser): Case[] {
  const open = async () => {
    const visited = await visit(t, browser, '<script type="module" src="/page.js"></script>', { scripts: { '/page.js': SCRIPT } })
    // Otherwise an EventSource waits for three seconds, or five.
    await visited.site.streams[0]!.send({ retry: 100 })
    return visited
  }
  // A stream is open on the server before the head has reached the page.
  const reach = (tab: Tab, ...states: number[]) => tab.until(states => (globalThis as any).sources.map((source: EventSource) => source.readyState).join() === states, states.join())
  const stopped = (tab: Tab) => tab.until(() => (globalThis as any).sources[0].readyState === 2)
  const reasons: CloseReason[] = ['finished', 'failed', 'stalled', 'expired']
  return [
    {
      name: 'an EventSource that is evicted is answered 204 and stops for good',
      visit: open,
      async end ({ site, tab }) {
        t.equal(await site.app.fastify.streamRegistry.evict('ann'), 1)
        await stopped(tab)
        t.strictSame(site.refused, [204])
        t.equal(site.streams.length, 1)
      }
    },
    {
      name: 'an EventSource that is replaced is answered 204 and stops for good, and its successor goes on',
      visit: open,
      async end ({ site, tab }) {
        await tab.run(() => { (globalThis as any).openStream() })
        await stopped(tab)
        await site.until(1, 2)
        t.strictSame(site.refused, [204])
        await reach(tab, 2, 1)
      }
    },
    ...reasons.map(reason => ({
      name: `an EventSource whose stream is ${reason} comes back`,
      visit: open,
      async end ({ site, tab }: Visited) {
        site.streams[0]!.close(reason)
        await site.until(1, 2)
        await reach(tab, 1)
        t.equal(site.streams[1]!.tabId, site.streams[0]!.tabId)
      }
    })),
    {
      name: 'an EventSource whose server shuts down comes back to the next server',
      visit: open,
      async end ({ site, tab, reopen }) {
        await site.app.fastify.close()
        await (await reopen()).until(1, 1)
        await reach(tab, 1)
      }
    },
    {
      name: 'an EventSource comes back after an outage in which two requests are broken off',
      visit: open,
      async end (visited) {
        const next = await outage(visited, 2, response => { response.destroy() })
        await next.until(1, 1)
        await reach(visited.tab, 1)
      }
    },
    {
      name: 'an EventSource that is answered 503 stops for good',
      visit: open,
      async end (visited) {
        const next = await outage(visited, 1, response => { response.writeHead(503, { connection: 'close' }).end() })
        await stopped(visited.tab)
        t.equal(next.streams.length, 0)
      }
    }
  ]
}

// The client of Datastar 1.0 tells what it does as `datastar-fetch`, and the betas as `datastar-sse`.
const RECORD = `<script>
  globalThis.fetches = []
  for (const name of ['datastar-fetch', 'datastar-sse']) document.addEventListener(name, event => fetches.push(event.detail.type))
</script>`

function datastarCases (t: Test, browser: Browser): Case[] {
  return datastarClients().flatMap(({ name, script }) => {
    // The betas do not know the option `retry`.
    const modes = /v1\.0\.0-(beta|RC)/.test(name) ? [undefined] : ['auto', 'error', 'always']
    return modes.flatMap(retry => {
      const title = retry === undefined ? name : `${name}, retry: '${retry}'`
      // The tests of an engine share a window, which hides all tabs but one.
      const options = retry === undefined ? '{openWhenHidden: true}' : `{openWhenHidden: true, retry: '${retry}', retryInterval: 100}`
      const open = () => visit(t, browser, RECORD + datastarBody(options), { scripts: { '/datastar.js': script } })
      const cases: Case[] = [
        {
          name: `${title}: comes back after a shutdown`,
          visit: open,
          async end ({ site, reopen }) {
            await site.app.fastify.close()
            await (await reopen()).until(1, 1)
          }
        },
        {
          name: `${title}: stops for good after an eviction`,
          visit: open,
          async end ({ site, tab }) {
            t.equal(await site.app.fastify.streamRegistry.evict('ann'), 1)
            await tab.until(() => (globalThis as any).fetches.at(-1) === 'finished')
            t.strictSame(site.refused, retry === 'always' ? [204] : [])
            t.equal(site.streams.length, 1)
          }
        }
      ]
      if (retry === 'always' || retry === 'error') {
        cases.push({
          name: `${title}: comes back after an outage with a 503`,
          visit: open,
          async end (visited) {
            const next = await outage(visited, 1, response => { response.writeHead(503, { connection: 'close' }).end() })
            await next.until(1, 1)
          }
        })
      }
      return cases
    })
  })
}

for (const engine of ENGINES) {
  t.test(engine, optionsFor(engine), async t => {
    const browser = await launch(t, engine)
    // The cases share a browser and wait at the same time.
    await Promise.all([...eventSourceCases(t, browser), ...datastarCases(t, browser)].map(async ({ name, visit, end }) => {
      const visited = await visit()
      await end(visited)
      t.pass(name)
      await visited.tab.close()
    }))
  })
}
