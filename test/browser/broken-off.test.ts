// In three engines, over each transport: `fetch` takes a response that is broken off for an error, and a clean end for a clean end.
import type { Socket } from 'node:net'
import type { FastifyServerOptions } from 'fastify'
import t, { type Test } from 'tap'
import type { Stream } from '../../lib/index.ts'
import { buildApp, streamRoute, type App } from '../kit/app.ts'
import { makeCertificate, withoutOpenssl } from '../kit/certificate.ts'
import { ENGINES, launch, optionsFor, type Engine } from '../kit/engines.ts'
import { http2App } from '../kit/http2.ts'
import { nginxOptions, startNginx } from '../kit/nginx.ts'

const READ = `<!doctype html><link rel="icon" href="data:,"><script type="module">
  try {
    const reader = (await fetch('/stream/ann', { cache: 'no-store' })).body.getReader()
    while (!(await reader.read()).done);
    globalThis.end = 'clean'
  } catch {
    globalThis.end = 'broken'
  }
</script>`

interface Site { url: string, streams: Stream[] }
interface Transport {
  name: string
  skip: string | false
  /** Engines that do not take a response that is broken off for an error. docs/browsers.md says so. */
  unnoticed?: Engine[]
  site: (t: Test) => Promise<Site>
}

async function site (t: Test, app: App): Promise<Stream[]> {
  // Browsers open connections in advance, for which a server that speaks HTTP/2 waits.
  const sockets = new Set<Socket>()
  app.fastify.server.on('connection', (socket: Socket) => sockets.add(socket))
  t.teardown(() => { for (const socket of sockets) socket.destroy() })
  const streams = streamRoute(app)
  app.fastify.get('/', async (_request, reply) => reply.type('text/html').send(READ))
  await app.listen()
  return streams
}

const TRANSPORTS: Transport[] = [
  {
    name: 'HTTP/1.1',
    skip: false,
    async site (t) {
      const app = await buildApp(t, { fastify: { forceCloseConnections: true } })
      const streams = await site(t, app)
      return { url: app.url('/'), streams }
    }
  },
  {
    name: 'HTTP/1.1 over TLS',
    skip: withoutOpenssl,
    async site (t) {
      const app = await buildApp(t, { fastify: { forceCloseConnections: true, https: makeCertificate() } as FastifyServerOptions })
      const streams = await site(t, app)
      return { url: app.url('/').replace('http:', 'https:'), streams }
    }
  },
  {
    name: 'HTTP/2',
    skip: withoutOpenssl,
    unnoticed: ['webkit'],
    async site (t) {
      const app = await http2App(t, 'over TLS')
      const streams = await site(t, app)
      return { url: app.url('/'), streams }
    }
  },
  {
    name: 'HTTP/1.0 to nginx, and HTTP/1.1 to the browser',
    skip: nginxOptions.skip,
    // nginx ends the browser's connection between two chunks.
    unnoticed: ['webkit'],
    async site (t) {
      const app = await buildApp(t, { fastify: { forceCloseConnections: true } })
      const streams = await site(t, app)
      const nginx = await startNginx(t, `location / { proxy_http_version 1.0; proxy_pass http://127.0.0.1:${app.port()}; }`)
      return { url: nginx.url('/'), streams }
    }
  }
]

for (const engine of ENGINES) {
  t.test(engine, optionsFor(engine), async t => {
    const browser = await launch(t, engine)
    const tab = await browser.newTab()
    for (const { name, skip, unnoticed = [], site } of TRANSPORTS) {
      const ends = unnoticed.includes(engine) ? ['finished'] as const : ['finished', 'failed', 'shutdown'] as const
      await t.test(`${name}: ${ends.join(', ')}`, { skip, timeout: 180_000 }, async t => {
        const { url, streams } = await site(t)
        for (const reason of ends) {
          const count = streams.length
          await tab.goto(url)
          while (streams.length === count) await new Promise(resolve => setTimeout(resolve, 5))
          await streams.at(-1)!.send('hello')
          streams.at(-1)!.close(reason)
          await tab.until(() => (globalThis as any).end !== undefined)
          t.equal(await tab.run(() => (globalThis as any).end), reason === 'finished' ? 'clean' : 'broken', reason)
        }
      })
    }
  })
}
