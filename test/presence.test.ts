// Presence: the events that tell when a scope comes online and goes offline.
import diagnostics from 'node:diagnostics_channel'
import { setImmediate as turn } from 'node:timers/promises'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { canonical, scopeKeyOf } from '../lib/registry/stream-key.ts'
import type { Cluster, ClusterContext, ScopeEvent, ScopeKey } from '../lib/index.ts'
import { buildApp, streamRoute, withSignals } from './kit/app.ts'
import { connect } from './kit/client.ts'
import { same } from './kit/decode-key.ts'
import { seeded } from './kit/seed.ts'

/** Listens to the events of scopes. `next` resolves when `count` events have come. */
function listen (t: Test) {
  const events: string[] = []
  for (const state of ['online', 'offline']) {
    const note = (event: unknown) => { events.push(`${state} ${JSON.stringify((event as ScopeEvent).scopeKey, (_, value) => typeof value === 'bigint' ? `${value}n` : value)}`) }
    diagnostics.subscribe(`octa-star:scope:${state}`, note)
    t.teardown(() => diagnostics.unsubscribe(`octa-star:scope:${state}`, note))
  }
  const next = async (count: number) => { while (events.length < count) await turn() }
  return { events, next }
}

t.test('a scope is online with the first stream, and offline when the last stream has been gone for offlineDelay', async t => {
  const { events, next } = listen(t)
  const app = await buildApp(t, { offlineDelay: 20 })
  const streams = streamRoute(app)
  await app.listen()
  await connect(app.url(withSignals('/stream/ann', { tabId: 'a' })))
  await connect(app.url(withSignals('/stream/ann', { tabId: 'b' })))
  await connect(app.url(withSignals('/stream/bob', { tabId: 'a' })))
  t.strictSame(events, ['online "ann"', 'online "bob"'])
  streams[0]!.close()
  streams[2]!.close()
  await next(3)
  t.equal(events[2], 'offline "bob"')
  streams[1]!.close()
  await next(4)
  t.equal(events[3], 'offline "ann"')
  await connect(app.url('/stream/ann'))
  t.equal(events[4], 'online "ann"', 'a stream without a tab id counts too')
})

t.test('a scope does not go offline during a navigation, or if the user returns within offlineDelay', async t => {
  const { events } = listen(t)
  const app = await buildApp(t, { offlineDelay: 600_000 })
  const streams = streamRoute(app)
  await app.listen()
  for (let i = 0; i < 3; i++) await connect(app.url(withSignals('/stream/ann', { tabId: 'a' })))
  streams[2]!.close()
  await streams[2]!.gone
  await connect(app.url(withSignals('/stream/ann', { tabId: 'b' })))
  t.strictSame(events, ['online "ann"'])
})

t.test('when the server has closed, every scope is offline at once, and nothing keeps the process alive', async t => {
  const { events } = listen(t)
  const app = await buildApp(t, { offlineDelay: 600_000 })
  const streams = streamRoute(app)
  await app.listen()
  await connect(app.url('/stream/ann'))
  await connect(app.url('/stream/bob'))
  streams[1]!.close()
  await streams[1]!.gone
  await app.fastify.close()
  t.strictSame(events.slice(2).sort(), ['offline "ann"', 'offline "bob"'])
})

t.test('without a subscriber no scope is counted, and a later subscriber is told of later scopes', async t => {
  const app = await buildApp(t, { offlineDelay: 20 })
  const streams = streamRoute(app)
  await app.listen()
  await connect(app.url('/stream/ann'))
  const { events, next } = listen(t)
  streams[0]!.close()
  await streams[0]!.gone
  await connect(app.url('/stream/bob'))
  await next(1)
  t.strictSame(events, ['online "bob"'])
})

t.test('in a cluster the process that the cluster chooses reports a scope, and the plugin calls the cluster as the contract says', async t => {
  const { events, next } = listen(t)
  let context!: ClusterContext
  const answers = [true, false]
  const cluster: Cluster = {
    maxMessageBytes: 1_000,
    claim: () => undefined,
    release () {},
    evict: async () => 0,
    count: async () => 0,
    send: async () => 0,
    list: async () => [],
    markOnline: async () => answers.shift()!,
    markOffline: async () => true,
    leave: async () => {}
  }
  const app = await buildApp(t, {
    offlineDelay: 20,
    cluster: {
      async join (given) {
        context = given
        return cluster
      }
    }
  })
  const streams = streamRoute(app)
  await app.listen()
  await connect(app.url('/stream/ann'))
  await next(1)
  await connect(app.url('/stream/bob'))
  t.equal(context.offlineDelay, 20)
  t.equal(context.observesScopes(), true)
  t.match(context.list('"ann"'), [{ id: streams[0]!.id }])
  t.equal(context.deliver({ scope: '"ann"', text: 'data: 1\n\n' }), 1)
  streams[0]!.close()
  await next(2)
  context.wentOffline('["carl",1n]')
  t.strictSame(events, ['online "ann"', 'offline "ann"', 'offline ["carl","1n"]'])
})

t.test('a scope key can be read from its canonical form', async t => {
  const { scopeKey } = fc.letrec<{ scopeKey: ScopeKey }>(tie => ({
    scopeKey: fc.oneof(
      { maxDepth: 3 }, fc.string({ unit: 'binary' }), fc.double({ noNaN: true, noDefaultInfinity: true }), fc.bigInt(), fc.boolean(),
      fc.constantFrom('1n', '"1n"', 'n1', 's', '', '\\"', '-1n,2n'), fc.array(tie('scopeKey'), { maxLength: 4 }), fc.dictionary(fc.string(), tie('scopeKey'), { maxKeys: 4 })
    )
  }))
  fc.assert(fc.property(scopeKey, key => same(scopeKeyOf(canonical(key, 'test')), key)), seeded(import.meta.url))
})
