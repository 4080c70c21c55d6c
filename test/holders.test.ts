// Holders: which keys and holders replaceAndRegister accepts, and that the registry shows no stream before its head is sent.
import diagnostics from 'node:diagnostics_channel'
import { setImmediate as turn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { streamKey, type Holder, type Stream, type StreamKey, type StreamOpenEvent, type StreamReplaceEvent } from '../lib/index.ts'
import { buildApp, LEVELS, streamRoute, withSignals } from './kit/app.ts'
import { connect } from './kit/client.ts'
import { ObedientHolder, PlainHolder } from './kit/plain-holder.ts'

function subscribe<T> (t: Test, name: string, onEvent: (event: T) => void): void {
  const listener = (event: unknown) => onEvent(event as T)
  diagnostics.subscribe(name, listener)
  t.teardown(() => { diagnostics.unsubscribe(name, listener) })
}

t.test('replaceAndRegister refuses a key that streamKey did not make, and a holder without close or gone, before it ends any holder', async t => {
  const { fastify } = await buildApp(t)
  const { streamRegistry } = fastify
  const present = new PlainHolder()
  const key = streamKey('ann', 'a')
  await streamRegistry.replaceAndRegister(key, present)
  for (const wrong of [undefined, null, 'ann', ['ann', 'a'], {}, { scope: '"ann"' }, { scope: 1, slot: 2 }]) {
    await t.rejects(streamRegistry.replaceAndRegister(wrong as unknown as StreamKey, new PlainHolder()), { code: 'FST_ERR_OCTA_STAR_STREAM_KEY' })
  }
  const close = () => {}
  const gone = new Promise<void>(() => {})
  for (const wrong of [undefined, null, {}, { close }, { gone }, { close, gone: true }, { close: 'close', gone }]) {
    await t.rejects(streamRegistry.replaceAndRegister(key, wrong as unknown as Holder), { code: 'FST_ERR_OCTA_STAR_HOLDER' })
  }
  await t.rejects(streamRegistry.replaceAndRegister(streamKey('bob', 'a'), undefined as unknown as Holder), { code: 'FST_ERR_OCTA_STAR_HOLDER' })
  t.strictSame(present.reasons, [])
  t.equal(streamRegistry.get('ann', 'a') as Holder, present)
  t.equal(streamRegistry.size, 1)
  t.equal(await streamRegistry.count('ann'), 1)
  present.leave()
})

t.test('a stream that holds a key cannot take another key', async t => {
  const app = await buildApp(t)
  const { streamRegistry } = app.fastify
  const streams = streamRoute(app)
  await app.listen()
  const client = await connect(app.url(withSignals('/stream/ann', { tabId: 'a' })))
  await t.rejects(streamRegistry.replaceAndRegister(streamKey('bob', 'a'), streams[0]!), {
    code: 'FST_ERR_OCTA_STAR_HOLDER', message: 'A holder must have no stream key yet, got a stream of startStream. Register an object of your own that closes the stream'
  })
  t.equal(await streamRegistry.replaceAndRegister(streamKey('ann', 'a'), streams[0]!), true, 'its own key stays')
  t.strictSame([streamRegistry.size, await streamRegistry.count('bob')], [1, 0])
  client.leave()
})

t.test('registering the same holder twice does nothing', async t => {
  const { fastify: { streamRegistry } } = await buildApp(t)
  const holder = new PlainHolder()
  const key = streamKey('ann', 'a')
  t.equal(await streamRegistry.replaceAndRegister(key, holder), true)
  t.equal(await streamRegistry.replaceAndRegister(key, holder), true)
  t.strictSame(holder.reasons, [])
  t.equal(streamRegistry.size, 1)
  holder.leave()
})

for (const isReplaced of [false, true]) {
  t.test(`registering a holder twice that waits resolves both times when the wait is over: ${isReplaced ? 'false after a replacement' : 'true'}`, async t => {
    const { fastify: { streamRegistry } } = await buildApp(t)
    const [present, waiting, newest] = [new PlainHolder(), new ObedientHolder(), new ObedientHolder()]
    const key = streamKey('ann', 'a')
    const register = (holder: Holder) => streamRegistry.replaceAndRegister(key, holder)
    await register(present)
    const settled: boolean[] = []
    const registered = [register(waiting), register(waiting), register(waiting)]
    for (const each of registered) each.then(holds => settled.push(holds))
    for (let i = 0; i < 3; i++) await turn()
    t.strictSame(settled, [])
    const last = isReplaced ? register(newest) : undefined
    present.leave()
    t.strictSame(await Promise.all(registered), Array(3).fill(!isReplaced))
    await last
    await streamRegistry.evict('ann')
  })
}

t.test('a close that returns a rejected promise causes a warning, and the successor starts', async t => {
  const app = await buildApp(t)
  const { streamRegistry } = app.fastify
  const key = streamKey('ann', 'a')
  const [faulty, next] = [new PlainHolder(), new PlainHolder()]
  faulty.close = (async () => {
    faulty.leave()
    throw new Error('a fault in close')
  }) as () => void
  await streamRegistry.replaceAndRegister(key, faulty)
  t.equal(await streamRegistry.replaceAndRegister(key, next), true)
  await turn()
  t.match(app.log.filter(line => line.level === LEVELS.warn), [{ msg: "a holder's close() failed", err: { message: 'a fault in close' } }])
  next.leave()
})

for (const [what, close] of Object.entries({
  'throws an error': () => { throw new Error('a fault in close') },
  'rejects with an error': async () => { throw new Error('a fault in close') }
})) {
  t.test(`a holder that is registered after the server has closed is refused, although its close ${what}`, async t => {
    const app = await buildApp(t, { errorsExpected: true })
    await app.fastify.close()
    const holds = await app.fastify.streamRegistry.replaceAndRegister(streamKey('ann', 'a'), { close, gone: Promise.resolve() })
    t.equal(holds, false)
    await turn()
    t.match(app.log.filter(line => line.level === LEVELS.warn), [{ msg: "a holder's close() failed", err: { message: 'a fault in close' } }])
  })
}

t.test('the registry shows no stream before its head is sent, neither on a channel nor in an onClose callback', async t => {
  const app = await buildApp(t)
  const { streamRegistry } = app.fastify
  const early: string[] = []
  const sent: Array<Promise<void>> = []
  const look = (where: string) => {
    for (const holder of [...streamRegistry, streamRegistry.get('ann', 'a'), streamRegistry.get('bob', 'a')] as Array<Stream | undefined>) {
      if (holder === undefined) continue
      if (holder.openedAt === 0) early.push(where)
      else if (!holder.closing) sent.push(holder.send(where))
    }
  }
  for (const name of ['octa-star:stream:open', 'octa-star:stream:replace', 'octa-star:stream:close']) subscribe(t, name, () => look(name))
  const letGo: Array<() => void> = []
  let isHeld = true
  streamRoute(app, '/stream/:scope', stream => {
    stream.onClose(async () => {
      look('an onClose callback')
      if (isHeld) await new Promise<void>(resolve => { letGo.push(resolve) })
      look('the end of an onClose callback')
    })
  })
  await app.listen()
  const urls = ['ann', 'bob'].map(scope => app.url(withSignals(`/stream/${scope}`, { tabId: 'a' })))
  for (const url of urls) await connect(url)
  const successors = urls.map(url => connect(url))
  while (letGo.length < 2) await turn()
  isHeld = false
  // Both successors open in one turn.
  for (const go of letGo) go()
  for (const { status } of await Promise.all(successors)) t.equal(status, 200)
  await Promise.all(sent)
  t.strictSame(early, [])
  t.ok(sent.length > 0)
})

t.test('a send to a stream that is not open is refused with a code, and harms neither a later send nor the stream', async t => {
  const app = await buildApp(t)
  const refused: Array<Promise<void>> = []
  subscribe<StreamReplaceEvent>(t, 'octa-star:stream:replace', ({ by }) => { refused.push((by as Stream).send('too early')) })
  const opened: Stream[] = []
  subscribe<StreamOpenEvent>(t, 'octa-star:stream:open', ({ stream }) => { opened.push(stream) })
  const streams = streamRoute(app)
  await app.listen()
  const url = app.url(withSignals('/stream/ann', { tabId: 'a' }))
  await connect(url)
  const client = await connect(url)
  t.equal(refused.length, 1)
  await t.rejects(refused[0]!, { code: 'FST_ERR_OCTA_STAR_NOT_OPEN' })
  await streams[1]!.send('hello')
  t.match(await client.event(1), { data: 'hello' })
  streams[1]!.close()
  t.equal(await streams[1]!.closed, 'finished')
  t.match(streams[1]!.signal.reason, { code: 'FST_ERR_OCTA_STAR_STREAM_CLOSED', reason: 'finished' })
  t.equal(opened.length, 2)
})
