// Rule 7: a stream without a tab id is never deduplicated or replaced, but is listed, can be evicted, and is closed on shutdown.
import t from 'tap'
import { buildApp, streamRoute } from '../kit/app.ts'
import { connect } from '../kit/client.ts'

t.test('streams without a tab id live side by side, are listed, and an eviction of their scope ends them', async t => {
  const app = await buildApp(t)
  const streams = streamRoute(app)
  await app.listen()
  const clients = [await connect(app.url('/stream/ann')), await connect(app.url('/stream/ann'))]
  await connect(app.url('/stream/bob'))
  t.strictSame([...app.fastify.streamRegistry], streams)
  t.ok(streams.every(stream => stream.tabId === undefined && !stream.signal.aborted))
  t.equal(await app.fastify.streamRegistry.evict('ann'), 2)
  for (const client of clients) {
    t.equal(await client.ended, 'clean')
    t.equal(client.events.at(-1)!.data, 'evicted')
  }
  t.strictSame([...app.fastify.streamRegistry], [streams[2]])
})

t.test('a shutdown ends them', async t => {
  const app = await buildApp(t)
  const streams = streamRoute(app)
  await app.listen()
  const client = await connect(app.url('/stream/ann'))
  await app.fastify.close()
  t.equal(await client.ended, 'broken')
  t.equal(await streams[0]!.closed, 'shutdown')
})
