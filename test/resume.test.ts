// Resuming: the last event id that a stream gets from its client, and how long a farewell stops its client. The recipe is in documents.test.ts.
import FakeTimers from '@sinonjs/fake-timers'
import t, { type Test } from 'tap'
import { buildApp, streamRoute, withSignals, type App } from './kit/app.ts'
import { connect } from './kit/client.ts'
import type { Stream } from '../lib/index.ts'

const path = withSignals('/stream/ann', { tabId: 'a' })
const MINUTE = 60_000

async function streamApp (t: Test): Promise<{ app: App, streams: Stream[] }> {
  const app = await buildApp(t)
  const streams = streamRoute(app)
  await app.listen()
  return { app, streams }
}

/** Stops the clock. Timers go on. */
function stopDate (t: Test) {
  const clock = FakeTimers.install({ toFake: ['Date'], now: Date.now() })
  t.teardown(() => clock.uninstall())
  return clock
}

const comeBack = (app: App, id: string) => connect(app.url(path), { headers: { 'last-event-id': id } })

/** Evicts the tab's stream. Resolves to the farewell's id. */
async function farewellId (app: App, retry?: number): Promise<string> {
  const client = await connect(app.url(path))
  if (retry !== undefined) await (app.fastify.streamRegistry.get('ann', 'a') as Stream).send({ retry, data: 'hello' })
  await app.fastify.streamRegistry.evict('ann')
  await client.ended
  return client.events.at(-1)!.id!
}

t.test('stream.lastEventId is the id that the client sent, and undefined if the client sent none', async t => {
  const { app, streams } = await streamApp(t)
  await connect(app.url(path))
  await comeBack(app, '42')
  await comeBack(app, 'an id with \t a tab')
  t.strictSame(streams.map(stream => stream.lastEventId), [undefined, '42', 'an id with \t a tab'])
})

t.test('a farewell stops its client for a minute, and a start after that works and knows no last event', async t => {
  const { app, streams } = await streamApp(t)
  const clock = stopDate(t)
  const id = await farewellId(app)
  t.equal((await comeBack(app, id)).status, 204)
  clock.tick(MINUTE - 1)
  t.equal((await comeBack(app, id)).status, 204)
  clock.tick(1)
  t.equal((await comeBack(app, id)).status, 200)
  t.equal(streams.length, 2)
  t.equal(streams[1]!.lastEventId, undefined)
})

t.test('a farewell stops a client for twice its reconnection time longer, however long that is', async t => {
  for (const retry of [30_000, 3_600_000, 2 ** 31 - 1]) {
    const { app } = await streamApp(t)
    const clock = FakeTimers.install({ toFake: ['Date'], now: Date.now() })
    const id = await farewellId(app, retry)
    clock.tick(MINUTE + 2 * retry - 1)
    t.equal((await comeBack(app, id)).status, 204, `retry ${retry}`)
    clock.tick(1)
    t.equal((await comeBack(app, id)).status, 200, `retry ${retry}`)
    clock.uninstall()
  }
})

t.test('an id that only looks like a farewell stops no client, and is not passed on', async t => {
  const { app, streams } = await streamApp(t)
  for (const id of ['octa-star-closed', 'octa-star-closed:evicted', 'octa-star-closed:evicted:', 'octa-star-closed:evicted:soon', 'octa-star-closed:finished:9999999999999']) {
    t.equal((await comeBack(app, id)).status, 200, id)
  }
  t.strictSame(streams.map(stream => stream.lastEventId), Array(5).fill(undefined))
})
