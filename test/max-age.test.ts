// maxAge: no stream gets older than maxAge, and streams that were opened together do not end together.
import FakeTimers from '@sinonjs/fake-timers'
import t from 'tap'
import { buildApp, streamRoute } from './kit/app.ts'
import { connect } from './kit/client.ts'
import { openStream } from './kit/fake-stream.ts'

t.test('1,000 streams expire at different times, spread over the last tenth of maxAge', async t => {
  const clock = FakeTimers.install({ loopLimit: 10_000 })
  t.teardown(() => clock.uninstall())
  const opened = await Promise.all(Array.from({ length: 1_000 }, () => openStream({ maxAge: 10_000 })))
  const expired = () => opened.filter(({ stream }) => stream.closing).length
  clock.tick(8_999)
  t.equal(expired(), 0)
  clock.tick(501)
  // As for a coin thrown a thousand times: a result outside these bounds has a chance of 10^-10.
  t.ok(expired() > 400 && expired() < 600, `${expired()} in the first half`)
  clock.tick(500)
  t.equal(expired(), 1_000)
  for (const { stream, response } of opened) {
    stream.handlerReturned()
    response.emit('close')
    t.equal(await stream.gone, 'expired')
    t.ok(response.destroyed)
  }
})

t.test('a stream that ends sooner leaves no timer behind', async t => {
  const clock = FakeTimers.install({ toFake: ['setTimeout', 'clearTimeout'] })
  t.teardown(() => clock.uninstall())
  const { stream, response } = await openStream({ maxAge: 10_000 })
  t.equal(clock.countTimers(), 1)
  response.emit('close')
  t.equal(await stream.closed, 'disconnected')
  t.equal(clock.countTimers(), 0)
})

t.test('over HTTP the connection of an expired stream breaks, its handler stops, and its key is free', async t => {
  const app = await buildApp(t, { maxAge: 50 })
  const streams = streamRoute(app)
  await app.listen()
  const client = await connect(app.url('/stream/ann'))
  t.equal(await client.ended, 'broken')
  t.ok(streams[0]!.signal.aborted)
  t.equal(await streams[0]!.closed, 'expired')
  t.equal(await app.fastify.streamRegistry.count('ann'), 0)
})
