// What can be observed: the channels' payloads, and one debug line each for an opening and a closing.
import diagnostics from 'node:diagnostics_channel'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { reportOpen } from '../lib/diagnostics.ts'
import { buildApp, LEVELS, streamRoute, withSignals } from './kit/app.ts'
import { connect } from './kit/client.ts'
import type { Stream, StreamCloseEvent, StreamOpenEvent, StreamReplaceEvent } from '../lib/index.ts'

const path = withSignals('/stream/ann', { tabId: 'a' })

t.test('opening, replacing and closing are published, with the stream, the reason and durations', async t => {
  const seen: Array<[string, any]> = []
  for (const name of ['open', 'replace', 'close']) {
    const listener = (event: unknown) => { seen.push([name, event]) }
    diagnostics.subscribe(`octa-star:stream:${name}`, listener)
    t.teardown(() => { diagnostics.unsubscribe(`octa-star:stream:${name}`, listener) })
  }
  const app = await buildApp(t)
  const streams = streamRoute(app, '/stream/:scope', stream => stream.onClose(() => sleep(30)))
  await app.listen()
  await connect(app.url(path))
  await sleep(20)
  await connect(app.url(path))

  t.strictSame(seen.map(([name]) => name), ['open', 'replace', 'close', 'open'])
  const [open, replace, close, next] = seen.map(([, event]) => event) as [StreamOpenEvent, StreamReplaceEvent, StreamCloseEvent, StreamOpenEvent]
  t.equal(open.stream, streams[0])
  t.ok(open.waited < 30)
  t.equal(replace.holder, streams[0])
  t.equal(replace.by, streams[1])
  t.ok(replace.held >= 15)
  t.match(close, { stream: streams[0], reason: 'replaced' })
  t.ok(close.lived >= 15 && close.closing >= 25, `lived ${close.lived} ms, closing ${close.closing} ms`)
  t.ok(next.waited >= 25, `waited ${next.waited} ms`)
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
