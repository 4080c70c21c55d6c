// The limit of a scope: the limit holds at every moment, the oldest stream ends first, and a different site cannot exhaust the limit.
import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { defaults } from '../lib/options.ts'
import { Registry } from '../lib/registry/registry.ts'
import { streamKey } from '../lib/registry/stream-key.ts'
import { deferred } from '../lib/wait.ts'
import { buildApp, LEVELS, streamRoute, withSignals } from './kit/app.ts'
import { connect } from './kit/client.ts'
import { pendingStream, startOn } from './kit/fake-stream.ts'
import { memoryLog } from './kit/memory-log.ts'
import { ObedientHolder, PlainHolder } from './kit/plain-holder.ts'

const build = (maxStreamsPerScope: number) =>
  new Registry({ ...defaults, maxStreamsPerScope, replaceTimeout: 2 ** 31 - 1, onLimit: 'replace-oldest' }, memoryLog().log)

t.test('a full scope ends its oldest live stream first, also after streams in the middle and at both ends have left', async t => {
  const registry = build(4)
  const holders: ObedientHolder[] = []
  const start = async () => {
    const holder = new ObedientHolder()
    holders.push(holder)
    await registry.replaceAndRegister(streamKey('ann', `tab ${holders.length}`), holder)
  }
  const evicted = () => holders.flatMap(({ reasons }, index) => reasons.includes('evicted') ? [index] : [])
  for (let i = 0; i < 4; i++) await start()
  for (const index of [1, 0, 3]) {
    holders[index]!.leave()
    await turn()
  }
  for (let i = 0; i < 3; i++) await start()
  t.strictSame(evicted(), [])
  for (let i = 0; i < 3; i++) await start()
  t.strictSame(evicted(), [2, 4, 5])
  t.equal(registry.size, 4)
})

t.test('a holder that has begun to end by itself while waiting for a place makes room for the next start', async t => {
  const registry = build(1)
  const [cleaning, waiting, newcomer] = [new PlainHolder(), Object.assign(new PlainHolder(), { closing: false }), new PlainHolder()]
  await registry.replaceAndRegister(streamKey('ann', 'a'), cleaning)
  const waited = registry.replaceAndRegister(streamKey('ann', 'b'), waiting)
  t.strictSame(cleaning.reasons, ['evicted'])
  waiting.closing = true
  const started = registry.replaceAndRegister(streamKey('ann', 'c'), newcomer)
  t.equal(await waited, false)
  cleaning.leave()
  t.equal(await started, true)
  t.strictSame(waiting.reasons, [], 'it was not evicted, because it was ending')
  waiting.leave()
})

t.test('there are never more streams between opened and gone than the limit allows', async t => {
  const LIMIT = 5
  const registry = build(LIMIT)
  let [live, most] = [0, 0]
  const starts: Array<Promise<void>> = []
  for (let i = 0; i < 300; i++) {
    const key = streamKey('ann', `tab ${i % 40}`)
    const pending = pendingStream({ key })
    const { stream } = pending
    stream.onClose(async () => { for (let n = 0; n < i % 7; n++) await turn() })
    starts.push(startOn(registry, pending, key).then(() => {
      most = Math.max(most, ++live)
      stream.gone.then(() => live--)
      stream.keepAlive()
    }, () => {}).finally(() => stream.handlerReturned()))
    if (i % 10 === 0) await turn()
  }
  await Promise.all(starts)
  t.equal(most, LIMIT)
  await registry.evict('ann')
  t.equal(registry.size, 0)
})

t.test('a start that is refused after slow onSend hooks gets a 429, and nothing is logged as an error', async t => {
  const app = await buildApp(t, { maxStreamsPerScope: 1, onLimit: 'reject' })
  // All starts have passed the first check of the limit when the first start goes on.
  const { promise: allChecked, resolve: goOn } = deferred<void>()
  let starts = 0
  app.fastify.addHook('onSend', async () => {
    if (++starts === 3) goOn()
    await allChecked
  })
  streamRoute(app)
  await app.listen()
  const clients = await Promise.all(['a', 'b', 'c'].map(tabId => connect(app.url(withSignals('/stream/ann', { tabId })))))
  t.strictSame(clients.map(({ status }) => status).sort(), [200, 429, 429])
  for (const client of clients) {
    if (client.status === 200) continue
    await client.ended
    t.match(JSON.parse(client.text), { code: 'FST_ERR_OCTA_STAR_LIMIT', statusCode: 429 })
    t.ok(Number(client.headers['retry-after']) > 0)
  }
  t.strictSame(app.log.filter(({ level }) => level >= LEVELS.warn), [])
})

t.test('a navigation or an embedded resource of another site starts no stream and ends no holder', async t => {
  const app = await buildApp(t, { maxStreamsPerScope: 1 })
  const streams = streamRoute(app)
  await app.listen()
  const ask = (tabId: string, site: string, mode: string) =>
    connect(app.url(withSignals('/stream/ann', { tabId })), { headers: { 'sec-fetch-site': site, 'sec-fetch-mode': mode } })
  const live = await connect(app.url(withSignals('/stream/ann', { tabId: 'a' })))
  for (const mode of ['navigate', 'no-cors']) {
    for (const tabId of ['a', 'b']) {
      const refused = await ask(tabId, 'cross-site', mode)
      await refused.ended
      t.equal(refused.status, 403)
      t.match(JSON.parse(refused.text), { code: 'FST_ERR_OCTA_STAR_CROSS_SITE' })
    }
  }
  t.equal(streams.length, 1)
  await streams[0]!.send('still here')
  t.match(await live.event(1), { data: 'still here' })
  for (const [site, mode] of [['cross-site', 'cors'], ['same-origin', 'cors'], ['same-origin', 'same-origin'], ['same-site', 'navigate'], ['none', 'navigate']] as const) {
    t.equal((await ask('a', site, mode)).status, 200, `${site}, ${mode}`)
  }
})
