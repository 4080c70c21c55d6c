// A site for the browser tests: two pages that each open a stream. The server's registry shows which streams are live.
import { readFileSync } from 'node:fs'
import { delimiter, resolve } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { buildSync } from 'esbuild'
import type { Page } from 'playwright-core'
import type { Test } from 'tap'
import type { OctaStarStreamsOptions, Stream } from '../../lib/index.ts'
import { buildApp, type App } from './app.ts'

export interface Site {
  app: App
  /** All streams so far, in the order of their opening. */
  streams: Stream[]
  /** The status of each response to /stream that is not a stream. */
  refused: number[]
  /** Resolves when `live` streams are live, and at least `opened` streams have been opened. */
  until: (live: number, opened: number) => Promise<void>
}

export interface SiteOptions extends OctaStarStreamsOptions {
  /** The scripts that the pages load, by path. */
  scripts?: Record<string, string>
  /** The Content-Security-Policy header of the pages. Default: none. */
  contentSecurityPolicy?: string
  port?: number
  /** Set if the test provokes errors in the log. */
  errorsExpected?: boolean
}

export async function site (t: Test, body: string, { scripts = {}, contentSecurityPolicy, port = 0, ...options }: SiteOptions = {}): Promise<Site> {
  // Chromium opens connections in advance and may never use them. Without this option `close` waits up to a minute for such connections.
  const app = await buildApp(t, { browser: '/octa-star/tab-id.js', fastify: { forceCloseConnections: true }, ...options })
  const { fastify } = app
  const streams: Stream[] = []
  const refused: number[] = []
  // Each connection carries a single request. So a test that freezes connections freezes only streams.
  fastify.addHook('onSend', async (_request, reply) => { reply.header('connection', 'close') })
  fastify.addHook('onResponse', async (request, reply) => {
    if (request.routeOptions.url === '/stream' && reply.statusCode !== 200) refused.push(reply.statusCode)
  })
  fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    const stream = await reply.startStream('ann')
    streams.push(stream)
    stream.keepAlive()
  })
  for (const path of ['/', '/two']) {
    fastify.get(path, async (_request, reply) => {
      if (contentSecurityPolicy !== undefined) reply.header('content-security-policy', contentSecurityPolicy)
      return reply.type('text/html').send(`<!doctype html><link rel="icon" href="data:,"><script type="module" src="/octa-star/tab-id.js"></script>${body}`)
    })
  }
  for (const [path, content] of Object.entries(scripts)) fastify.get(path, async (_request, reply) => reply.type('text/javascript').send(content))
  fastify.get('/ping', async () => 'pong')
  await fastify.listen({ port, host: '127.0.0.1' })
  return {
    app,
    streams,
    refused,
    async until (live, opened) {
      while (fastify.streamRegistry.size !== live || streams.length < opened) await pause(10)
    }
  }
}

/** Opens the first page in `tab`, then navigates, reloads, and goes back and forward. After each step a single stream must be live, the newest. */
export async function wander (tab: Page, { app, streams, until }: Site): Promise<void> {
  await tab.goto(app.url('/'))
  await until(1, 1)
  const back = () => tab.goBack({ waitUntil: 'commit' })
  const forward = () => tab.goForward({ waitUntil: 'commit' })
  const round = [() => tab.goto(app.url('/two')), () => tab.reload(), () => tab.goto(app.url('/')), back, forward]
  for (const step of [...round, ...round, ...Array(5).fill([back, forward]).flat()]) {
    const opened = streams.length
    await step()
    await until(1, opened + 1)
  }
}

/** Opens the first page in `tab`, then the second page, and goes back to the first page. */
export async function thereAndBack (tab: Page, { app, until }: Site): Promise<void> {
  await tab.goto(app.url('/'))
  await until(1, 1)
  await tab.goto(app.url('/two'))
  await until(1, 2)
  await tab.goBack({ waitUntil: 'commit' })
}

export interface DatastarClient {
  name: string
  script: string
  /** The path of the bundle. `undefined` for the bundle from npm. */
  file?: string
}

/** Each bundle in DATASTAR_JS, a list of paths. */
export function datastarBundles (): DatastarClient[] {
  return (process.env.DATASTAR_JS ?? '').split(delimiter).filter(path => path !== '').map(path => {
    const script = readFileSync(path, 'utf8')
    return { name: /Datastar v[\w.-]+/.exec(script)?.[0] ?? path, script, file: resolve(path) }
  })
}

/** The Datastar client from npm, and each bundle in DATASTAR_JS. */
export function datastarClients (): DatastarClient[] {
  const { outputFiles } = buildSync({ stdin: { contents: 'import "@starfederation/datastar/bundles/datastar"', resolveDir: import.meta.dirname }, bundle: true, format: 'esm', write: false })
  return [{ name: 'Datastar v1.0.0-beta.11', script: outputFiles[0]!.text }, ...datastarBundles()]
}

/** A body that opens a stream with Datastar. Datastar 1.0 reads `data-init`, and the betas read `data-on-load`. Each ignores the attribute for the other. */
export function datastarBody (options = ''): string {
  const open = `@get('/stream'${options === '' ? '' : `, ${options}`})`
  return `<script type="module" src="/datastar.js"></script>
    <body data-signals="{tabId: octaStar.tabId()}"><p data-init="${open}" data-on-load="${open}"></p>`
}
