// The recipes of docs/recipes.md that need other programs and packages do what the page says.
import diagnostics from 'node:diagnostics_channel'
import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { buildApp, streamRoute, withSignals } from './kit/app.ts'
import { startChild } from './kit/child.ts'
import { connect } from './kit/client.ts'
import { blocksOf, runBlock } from './kit/document.ts'
import { reasonToSkip } from './kit/programs.ts'
import { redisOptions, redisServer } from './kit/redis.ts'

const all = blocksOf('docs/recipes.md').filter(({ language }) => language === 'js')
const block = (heading: string) => all.find(block => block.heading === heading)!.code
const load = (name: string) => import(name)

/** The app's streams, behind a server that the test starts. */
async function upstream (t: Test) {
  const app = await buildApp(t, { fastify: { forceCloseConnections: true } })
  const streams = streamRoute(app, '/orders')
  app.fastify.get('/plain', async () => 'plain')
  await app.listen()
  return { app, streams }
}

const proxyBlock = block('@fastify/http-proxy')
async function gateway (t: Test, code: string, url: string): Promise<FastifyInstance> {
  const gateway = Fastify({ forceCloseConnections: true }) as FastifyInstance
  t.teardown(() => gateway.close())
  await runBlock(code, load, { gateway, upstream: url })
  await gateway.listen({ port: 0, host: '127.0.0.1' })
  return gateway
}

t.test('@fastify/http-proxy: with the recipe, more than 128 streams are open beside ordinary requests', async t => {
  const { app, streams } = await upstream(t)
  const proxy = await gateway(t, proxyBlock, app.url(''))
  const clients = await Promise.all(Array.from({ length: 130 }, (_, i) => connect(proxy.listeningOrigin + withSignals('/orders', { tabId: String(i) }))))
  t.strictSame(new Set(clients.map(({ status }) => status)), new Set([200]))
  t.equal(streams.length, 130)
  t.equal(await (await fetch(`${proxy.listeningOrigin}/plain`)).text(), 'plain')
  await streams[0]!.send('through the proxy')
  await Promise.race(clients.map(client => client.event(1)))
  const [stream] = streams
  for (const client of clients) client.leave()
  t.equal(await stream!.gone, 'disconnected')
})

t.test('@fastify/http-proxy: without the recipe, the 129th request waits until a stream ends', async t => {
  const { app, streams } = await upstream(t)
  const proxy = await gateway(t, proxyBlock.replace(/ {2}undici: .*\n/, ''), app.url(''))
  const clients = await Promise.all(Array.from({ length: 128 }, (_, i) => connect(proxy.listeningOrigin + withSignals('/orders', { tabId: String(i) }))))
  let isAnswered = false
  const plain = fetch(`${proxy.listeningOrigin}/plain`).then(response => {
    isAnswered = true
    return response.text()
  })
  // The proxy itself answers meanwhile, so the request has reached the proxy.
  await (await fetch(`${proxy.listeningOrigin}/nowhere`, { method: 'TRACE' }).catch(() => undefined))?.text()
  for (let i = 0; i < 50; i++) await turn()
  t.notOk(isAnswered)
  streams[0]!.close()
  t.equal(await plain, 'plain')
  for (const client of clients) client.leave()
})

t.test('Vite: events pass at once, and the ends of both sides arrive', async t => {
  const { app, streams } = await upstream(t)
  const { exported } = await runBlock(block('Vite\'s development server'), load, {}, 'exported')
  const { createServer } = await import('vite')
  const proxy = { '/orders': { ...exported.server.proxy['/orders'], target: app.url('') } }
  const vite = await createServer({ configFile: false, logLevel: 'silent', optimizeDeps: { noDiscovery: true }, server: { host: '127.0.0.1', port: 0, hmr: false, watch: null, proxy } })
  t.teardown(() => vite.close())
  await vite.listen()
  const { port } = vite.httpServer!.address() as { port: number }
  const open = (tabId: string) => connect(`http://127.0.0.1:${port}${withSignals('/orders', { tabId })}`, { headers: { 'accept-encoding': 'gzip, br' } })
  const leaves = await open('leaves')
  for (let n = 1; n <= 3; n++) {
    await streams[0]!.send(`event ${n}`)
    t.equal((await leaves.event(n)).data, `event ${n}`)
  }
  t.equal(leaves.headers['content-encoding'], undefined)
  leaves.leave()
  t.equal(await streams[0]!.gone, 'disconnected')
  const evicted = await open('evicted')
  await app.fastify.streamRegistry.evict('scope', 'evicted')
  t.equal(await evicted.ended, 'clean')
  const breaks = await open('breaks')
  await app.fastify.close()
  t.equal(await breaks.ended, 'broken')
})

/** Reads the next line of JSON that the process prints. */
const line = async (lines: NodeJS.EventEmitter) => JSON.parse(String((await once(lines, 'line'))[0]))

t.test('Docker: a process with the id 1 shuts down at SIGTERM, and its clients see their connections break', { skip: reasonToSkip('unshare') }, async t => {
  const server = startChild(t, 'test/kit/recipe-process.js', { RECIPE: block('Docker without an init process') }, ['unshare', '--pid', '--fork', '--kill-child=SIGTERM', '--map-root-user'])
  const { pid, outerPid, port } = await line(server.lines)
  t.equal(pid, 1)
  const client = await connect(`http://127.0.0.1:${port}/orders`)
  // As `docker stop` does, from outside: unshare does not pass the signal on.
  process.kill(outerPid, 'SIGTERM')
  t.equal(await client.ended, 'broken')
  t.strictSame(await server.exited, [0, null])
})

t.test('node:cluster: the workers act as one', redisOptions, async t => {
  const redis = await redisServer(t)
  const server = startChild(t, 'test/kit/recipe-process.js', { RECIPE: block('node:cluster'), REDIS_PORT: String(redis.port) })
  const { port } = await line(server.lines)
  if ((await line(server.lines)).port !== port) t.fail('the workers share a port')
  const open = () => connect(`http://127.0.0.1:${port}${withSignals('/orders', { tabId: 'a' })}`)
  const workers = new Set<string>()
  let last = await open()
  // node:cluster gives the connections to the workers in turn.
  for (let i = 0; i < 4; i++) {
    const next = await open()
    t.equal(await last.ended, 'clean')
    t.match(last.events.at(-1), { event: 'octa-star-closed', data: 'replaced' })
    workers.add((await next.event(1)).data)
    last = next
  }
  t.equal(workers.size, 2)
  last.leave()
})

t.test('prom-client: the gauge counts live streams, and the histogram knows their lifetimes', async t => {
  const { register } = await import('prom-client')
  t.teardown(() => register.clear())
  await runBlock(block('prom-client'), load)
  const { app, streams } = await upstream(t)
  await Promise.all(['a', 'b', 'c'].map(tabId => connect(app.url(withSignals('/orders', { tabId })))))
  streams[0]!.close()
  await streams[0]!.gone
  const metrics = await register.metrics()
  t.match(metrics, /^sse_streams 2$/m)
  t.match(metrics, /^sse_streams_ended_total\{reason="finished"\} 1$/m)
  t.match(metrics, /^sse_stream_seconds_count 1$/m)
})

t.test('OpenTelemetry: each stream is a span, which ends with the reason', async t => {
  const { trace } = await import('@opentelemetry/api')
  const exporter = new InMemorySpanExporter()
  trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }))
  t.teardown(() => trace.disable())
  await runBlock(block('OpenTelemetry'), load)
  const app = await buildApp(t, { errorsExpected: true })
  const streams = streamRoute(app, '/orders')
  app.fastify.get('/fails', { sse: 'only' }, async (_request, reply) => {
    await reply.startStream('ann')
    throw new Error('a fault')
  })
  await app.listen()
  await connect(app.url('/orders'))
  t.equal(exporter.getFinishedSpans().length, 0)
  streams[0]!.close()
  await streams[0]!.gone
  const closed = new Promise<void>(resolve => {
    const listener = () => {
      diagnostics.unsubscribe('octa-star:stream:close', listener)
      resolve()
    }
    diagnostics.subscribe('octa-star:stream:close', listener)
  })
  await connect(app.url('/fails'))
  await closed
  t.match(exporter.getFinishedSpans(), [
    { name: 'sse stream', attributes: { 'sse.stream.id': streams[0]!.id, 'sse.stream.reason': 'finished' } },
    { name: 'sse stream', attributes: { 'sse.stream.reason': 'failed' }, status: { code: 2 }, events: [{ name: 'exception' }] }
  ])
})
