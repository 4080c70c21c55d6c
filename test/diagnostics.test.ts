// What the plugin reports: the payloads of the diagnostics channels, and a debug line for each opening and each closing.
import diagnostics from 'node:diagnostics_channel'
import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import FakeTimers from '@sinonjs/fake-timers'
import t from 'tap'
import { reportOpen } from '../lib/diagnostics.ts'
import { buildApp, holdUp, LEVELS, streamRoute, withSignals } from './kit/app.ts'
import { connect } from './kit/client.ts'
import type { Stream, StreamCloseEvent, StreamOpenEvent, StreamReplaceEvent } from '../lib/index.ts'

const path = withSignals('/stream/ann', { tabId: 'a' })

t.test('a stream that ends in the turn in which it opens rejects its start', async t => {
  const onOpen = (event: unknown) => { queueMicrotask(() => (event as StreamOpenEvent).stream.close()) }
  const app = await buildApp(t)
  const reasons: unknown[] = []
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    await reply.startStream('ann').then(stream => stream.keepAlive(), error => { reasons.push(error.reason) })
  })
  await app.listen()
  await connect(app.url(withSignals('/stream', { tabId: 'a' })))
  diagnostics.subscribe('octa-star:stream:open', onOpen)
  t.teardown(() => diagnostics.unsubscribe('octa-star:stream:open', onOpen))
  const client = await connect(app.url(withSignals('/stream', { tabId: 'a' })))
  t.equal(await client.ended, 'clean')
  t.strictSame(reasons, ['finished'])
})

t.test('a subscriber may end the stream that is replaced, and the key stays free for the next streams', async t => {
  const onReplace = (event: unknown) => { (event as StreamReplaceEvent).holder.close('expired') }
  const app = await buildApp(t, { maxStreamsPerScope: 5 })
  const streams = streamRoute(app)
  await app.listen()
  const first = await connect(app.url(path))
  diagnostics.subscribe('octa-star:stream:replace', onReplace)
  t.teardown(() => diagnostics.unsubscribe('octa-star:stream:replace', onReplace))
  for (let i = 1; i < 4; i++) {
    t.equal((await connect(app.url(path))).status, 200)
    t.equal(await streams[i - 1]!.closed, 'expired')
  }
  t.equal(await first.ended, 'broken')
  t.equal(await app.fastify.streamRegistry.count('ann'), 1)
})

t.test('opening, replacing and closing are published, with the stream, the reason and durations', async t => {
  const seen: Array<[string, any]> = []
  for (const name of ['open', 'replace', 'close']) {
    const listener = (event: unknown) => { seen.push([name, event]) }
    diagnostics.subscribe(`octa-star:stream:${name}`, listener)
    t.teardown(() => { diagnostics.unsubscribe(`octa-star:stream:${name}`, listener) })
  }
  const app = await buildApp(t)
  const streams = streamRoute(app)
  await app.listen()
  // The clock moves only when the test ticks it. Starts above 0, because `openedAt` is 0 for a stream that has not opened.
  const clock = FakeTimers.install({ toFake: ['performance'] })
  t.teardown(() => clock.uninstall())
  clock.tick(1_000)
  await connect(app.url(path))
  const cleanedUp = holdUp(streams[0]!)
  clock.tick(20)
  const second = connect(app.url(path))
  await once(streams[0]!.signal, 'abort')
  await turn()
  clock.tick(30)
  cleanedUp()
  await second

  t.strictSame(seen.map(([name]) => name), ['open', 'replace', 'close', 'open'])
  const [open, replace, close, next] = seen.map(([, event]) => event) as [StreamOpenEvent, StreamReplaceEvent, StreamCloseEvent, StreamOpenEvent]
  t.equal(open.stream, streams[0])
  t.equal(open.waited, 0)
  t.equal(replace.holder, streams[0])
  t.equal(replace.by, streams[1])
  t.equal(replace.held, 20)
  t.match(close, { stream: streams[0], reason: 'replaced' })
  t.match(close, { lived: 20, closing: 30 })
  t.equal(next.waited, 30)
})

t.test('there is one debug line for an opening and one for a closing', async t => {
  const app = await buildApp(t)
  const streams = streamRoute(app)
  await app.listen()
  const client = await connect(app.url(path))
  client.leave()
  await streams[0]!.gone
  t.match(app.log.filter(line => line.level === LEVELS.debug), [
    { msg: 'stream opened', streamId: streams[0]!.id, tabId: 'a', route: 'GET /stream/:scope', reqId: 'req-1' },
    { msg: 'stream closed', streamId: streams[0]!.id, reason: 'disconnected' }
  ])
})

t.test('no debug line is built when nobody listens', async t => {
  let lines = 0
  const log = { debug () { lines++ } }
  const report = (logger: object) => reportOpen({ stream: {} as Stream, waited: 0 }, logger as never, 'GET /')
  report({ ...log, isLevelEnabled: () => false })
  t.equal(lines, 0)
  report({ ...log, isLevelEnabled: () => true })
  report(log)
  t.equal(lines, 2)
})
