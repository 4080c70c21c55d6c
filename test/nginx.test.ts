// Streams behind a real nginx, with nginx's defaults and with the recipe's lines: events pass at once, disconnects are noticed, and endings arrive unchanged.
import { once } from 'node:events'
import http2 from 'node:http2'
import { EventSource } from 'eventsource'
import t, { type Test } from 'tap'
import type { CloseReason, Stream } from '../lib/index.ts'
import { buildApp, holdUp, streamRoute, withSignals, type App, type AppOptions } from './kit/app.ts'
import { connect } from './kit/client.ts'
import { blocksOf } from './kit/document.ts'
import { FLOOD } from './kit/flood.ts'
import { openIn } from './kit/http2.ts'
import { nginxOptions, startNginx } from './kit/nginx.ts'

const path = withSignals('/stream/ann', { tabId: 'a' })
const recipe = blocksOf('docs/recipes.md').find(({ language }) => language === 'nginx')!.code

const CONFIGURATIONS: Record<string, (port: number) => string> = {
  'nginx with its defaults': port => `location / { proxy_pass http://127.0.0.1:${port}; }`,
  'the recipe\'s lines': port => recipe.replace('/orders', '/').replace('3000', String(port))
}
const recommended = CONFIGURATIONS['the recipe\'s lines']!

async function listen (t: Test, options: AppOptions = {}): Promise<{ app: App, streams: Stream[] }> {
  const app = await buildApp(t, { fastify: { forceCloseConnections: true }, ...options })
  const streams = streamRoute(app)
  await app.listen()
  return { app, streams }
}

for (const [name, configuration] of Object.entries(CONFIGURATIONS)) {
  t.test(`${name}: the head passes before any event, and each event before the next is sent`, nginxOptions, async t => {
    const { app, streams } = await listen(t)
    const nginx = await startNginx(t, configuration(app.port()))
    const client = await connect(nginx.url(path))
    for (let i = 1; i <= 5; i++) {
      streams[0]!.send(`event ${i}`)
      t.equal((await client.event(i)).data, `event ${i}`)
    }
    client.leave()
  })

  t.test(`${name}: the server notices that a client disconnects`, nginxOptions, async t => {
    const { app, streams } = await listen(t)
    const nginx = await startNginx(t, configuration(app.port()))
    const client = await connect(nginx.url(path))
    client.leave()
    t.equal(await streams[0]!.gone, 'disconnected')
  })

  t.test(`${name}: a replacement, an eviction and a finish arrive as clean ends`, nginxOptions, async t => {
    const { app, streams } = await listen(t)
    const nginx = await startNginx(t, configuration(app.port()))
    const first = await connect(nginx.url(path))
    const second = await connect(nginx.url(path))
    t.equal(await first.ended, 'clean')
    t.match(first.events, [{ event: 'octa-star-closed', data: 'replaced' }])
    t.equal(second.status, 200)
    t.notOk(streams[1]!.signal.aborted)
    await app.fastify.streamRegistry.evict('ann')
    t.equal(await second.ended, 'clean')
    t.match(second.events, [{ event: 'octa-star-closed', data: 'evicted' }])
    const third = await connect(nginx.url(path))
    streams[2]!.close()
    t.equal(await third.ended, 'clean')
    t.strictSame(third.events, [])
  })

  t.test(`${name}: a client that stops reading costs its successor closeGrace, and not replaceTimeout`, nginxOptions, async t => {
    // Longer than the time limit of this file: a test that waits for replaceTimeout fails.
    const { app, streams } = await listen(t, { closeGrace: 200, replaceTimeout: 3_600_000 })
    const nginx = await startNginx(t, configuration(app.port()))
    const zombie = await connect(nginx.url(path))
    zombie.socket.pause()
    // There are two connections, and so twice as many kernel buffers to fill.
    streams[0]!.send(FLOOD.repeat(4)).catch(() => {})
    const second = await connect(nginx.url(path))
    t.equal(await streams[0]!.gone, 'replaced')
    streams[1]!.send('goes on')
    t.equal((await second.event(1)).data, 'goes on')
    zombie.leave()
    second.leave()
  })
}

t.test('with the recipe\'s lines a stream that the server breaks off is broken for the client too', nginxOptions, async t => {
  // Over HTTP/1.0 the end of the connection is the end of the response: nginx passed on a clean end.
  const { app, streams } = await listen(t)
  const nginx = await startNginx(t, recommended(app.port()))
  for (const reason of ['failed', 'stalled', 'shutdown'] as CloseReason[]) {
    const client = await connect(nginx.url(path))
    if (reason === 'shutdown') await app.fastify.close()
    else streams.at(-1)!.close(reason)
    t.equal(await client.ended, 'broken', reason)
  }
})

t.test('with the recipe\'s lines an EventSource keeps trying during a restart, and finds the server that took over', nginxOptions, async t => {
  // nginx answered 502 while nobody listened, and the EventSource stopped for good.
  const before = await listen(t)
  const port = before.app.port()
  const nginx = await startNginx(t, recommended(port))
  const source = new EventSource(nginx.url(path))
  t.teardown(() => source.close())
  await once(source, 'open')
  await before.streams[0]!.send({ retry: 10, data: 'hello' })
  await once(source, 'message')
  await before.app.fastify.close()
  for (let failures = 0; failures < 5; failures++) await once(source, 'error')
  t.equal(source.readyState, EventSource.CONNECTING)

  const after = await buildApp(t, { fastify: { forceCloseConnections: true } })
  streamRoute(after, '/stream/:scope', stream => { stream.send('hello again') })
  await after.fastify.listen({ port, host: '127.0.0.1' })
  t.equal((await once(source, 'message'))[0].data, 'hello again')
})

t.test('with the recipe\'s lines a new request during the shutdown gets no answer, neither Fastify\'s 503 nor nginx\'s 502', nginxOptions, async t => {
  const { app, streams } = await listen(t)
  const nginx = await startNginx(t, recommended(app.port()))
  const client = await connect(nginx.url(path))
  const letGo = holdUp(streams[0]!)
  const closed = app.fastify.close()
  t.equal(await client.ended, 'broken')
  await t.rejects(connect(app.url(path)), { code: 'ECONNRESET' })
  await t.rejects(connect(nginx.url(path)), { code: 'ECONNRESET' })
  letGo()
  await closed
})

t.test('proxy_read_timeout cuts off a stream without a heartbeat, and no stream whose heartbeat comes in time', nginxOptions, async t => {
  const silent = await listen(t)
  const cutting = await startNginx(t, `proxy_read_timeout 500ms; ${recommended(silent.app.port())}`)
  const cut = await connect(cutting.url(path))
  t.equal(await cut.ended, 'broken')
  t.equal(await silent.streams[0]!.gone, 'disconnected')

  // Twenty heartbeats fit into the limit, so that a busy machine, which delays heartbeats, does not miss all of them.
  const beating = await listen(t, { sse: { heartbeatInterval: 250 } })
  const keeping = await startNginx(t, `proxy_read_timeout 5s; ${recommended(beating.app.port())}`)
  const kept = await connect(keeping.url(path))
  while (kept.text.split(': heartbeat').length < 24) await once(kept.socket, 'data')
  t.notOk(beating.streams[0]!.signal.aborted)
  kept.leave()
})

t.test('with keep-alive connections between nginx and the server, the next request on a stream\'s connection belongs to no stream', nginxOptions, async t => {
  const { app, streams } = await listen(t)
  const lines = recommended(app.port())
    .replace(/proxy_pass .*/, 'proxy_pass http://app;')
    .replace('proxy_http_version 1.1;', 'proxy_http_version 1.1; proxy_set_header Connection "";')
  const nginx = await startNginx(t, lines, { http: `upstream app { server 127.0.0.1:${app.port()}; keepalive 4; }` })
  const sockets: unknown[] = []
  app.fastify.server.on('request', request => sockets.push(request.socket))
  const first = await connect(nginx.url(path))
  const second = await connect(nginx.url(path))
  t.equal(await first.ended, 'clean')
  const other = await connect(nginx.url(withSignals('/stream/ann', { tabId: 'other' })))
  t.ok(sockets[2] === sockets[0], 'the request came on the connection of the first stream')
  await app.fastify.streamRegistry.evict('ann', 'a')
  t.equal(await second.ended, 'clean')
  streams[2]!.send('unharmed')
  t.equal((await other.event(1)).data, 'unharmed')
  other.leave()
})

t.test('with HTTP/2 before nginx each stream of a session ends separately, cleanly or with a reset', nginxOptions, async t => {
  const { app, streams } = await listen(t)
  const nginx = await startNginx(t, recommended(app.port()), { listen: 'http2' })
  const session = http2.connect(nginx.url(''))
  t.teardown(() => session.destroy())
  const tabs = []
  for (const tabId of ['a', 'b', 'a', 'c']) tabs.push(await openIn(session, tabId))
  if (!tabs[0]!.closed) await once(tabs[0]!, 'close')
  t.match(tabs[0], { rstCode: http2.constants.NGHTTP2_NO_ERROR, text: /octa-star-closed:replaced/ })
  tabs[1]!.close(http2.constants.NGHTTP2_CANCEL)
  t.equal(await streams[1]!.gone, 'disconnected')
  const reset = tabs.slice(2).map(tab => new Promise(resolve => tab.on('close', () => resolve(tab.rstCode))))
  await app.fastify.close()
  t.strictSame(await Promise.all(reset), [http2.constants.NGHTTP2_INTERNAL_ERROR, http2.constants.NGHTTP2_INTERNAL_ERROR])
})
