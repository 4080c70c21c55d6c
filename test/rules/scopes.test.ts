// Rule 6: a tab id can never reach another scope.
import t from 'tap'
import { buildApp, streamRoute, withSignals } from '../kit/app.ts'
import { connect } from '../kit/client.ts'

t.test('of streams with one tab id in two scopes neither ends the other, and an eviction ends one of them', async t => {
  const app = await buildApp(t)
  const streams = streamRoute(app)
  await app.listen()
  await connect(app.url(withSignals('/stream/ann', { tabId: 'a' })))
  const bob = await connect(app.url(withSignals('/stream/bob', { tabId: 'a' })))
  t.notOk(streams[0]!.signal.aborted)
  t.notOk(streams[1]!.signal.aborted)
  t.equal(await app.fastify.streamRegistry.evict('bob', 'a'), 1)
  t.equal(await bob.ended, 'clean')
  t.notOk(streams[0]!.signal.aborted)
})

t.test('a tab id that looks like the end of another key reaches no other stream', async t => {
  const app = await buildApp(t)
  const streams = streamRoute(app)
  await app.listen()
  const hostile = ['a', '"a"', 'a" "chat', '"a","chat"', '1', '__proto__', 'constructor', '\n', 'ann"\n"a']
  for (const tabId of hostile) await connect(app.url(withSignals('/stream/ann', { tabId })))
  await connect(app.url('/stream/ann'))
  t.equal(streams.length, hostile.length + 1)
  t.ok(streams.every(stream => !stream.signal.aborted))
})

for (const [what, scopeKey] of [['undefined', undefined], ['null', null]] as const) {
  t.test(`a scope key that is ${what} is an error that says so, never a shared scope`, async t => {
    const app = await buildApp(t, { errorsExpected: true })
    app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
      await reply.startStream(scopeKey as never)
    })
    await app.listen()
    const response = await connect(app.url(withSignals('/stream', { tabId: 'a' })))
    await response.ended
    t.equal(response.status, 500)
    t.match(JSON.parse(response.text), { code: 'FST_ERR_OCTA_STAR_SCOPE_KEY', message: new RegExp(`startStream in GET /stream must be.*it is ${what}`) })
    t.equal(app.fastify.streamRegistry.size, 0)
  })
}
