// The plugin as an application uses it: over real sockets, with what Fastify does around it.
import t from 'tap'
import { buildApp, streamRoute, withSignals } from './kit/app.ts'
import { connect } from './kit/client.ts'

t.test('a new stream of a tab ends the old one, which gets the farewell, and only then starts', async t => {
  const app = await buildApp(t)
  const streams = streamRoute(app)
  await app.listen()

  const first = await connect(app.url(withSignals('/stream/ann', { tabId: 'a' })))
  await streams[0]!.send({ event: 'hello', data: { n: 1 } })
  const second = await connect(app.url(withSignals('/stream/ann', { tabId: 'a' })))

  t.equal(await first.ended, 'clean')
  t.strictSame(first.events, [
    { event: 'hello', data: '{"n":1}', id: undefined },
    { event: 'octa-star-closed', data: 'replaced', id: 'octa-star-closed:replaced' }
  ])
  t.equal(await streams[0]!.closed, 'replaced')
  t.equal(app.fastify.streamRegistry.size, 1)
  t.equal(app.fastify.streamRegistry.get('ann', 'a'), streams[1])
  second.leave()
  t.equal(await streams[1]!.closed, 'disconnected')
})
