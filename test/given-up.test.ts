// Rule 3: a stream that is not gone in time is given up once. After that the stream delays no successor, and is neither counted nor reported.
import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import FakeTimers from '@sinonjs/fake-timers'
import t, { type Test } from 'tap'
import type { CloseReason, Stream } from '../lib/index.ts'
import { defaults } from '../lib/options.ts'
import { Registry } from '../lib/registry/registry.ts'
import { streamKey } from '../lib/registry/stream-key.ts'
import { buildApp, LEVELS, withSignals, type App, type AppOptions } from './kit/app.ts'
import { connect } from './kit/client.ts'
import { memoryLog } from './kit/memory-log.ts'
import { PlainHolder } from './kit/plain-holder.ts'

interface HangingApp extends App {
  streams: Stream[]
  /** Lets every hanging handler return. */
  letGo: () => void
  /** Resolves when `count` streams are given up. */
  givenUp: (count: number) => Promise<void>
  warnings: () => Array<{ msg: string }>
}

// An app whose /hangs ignores the signal until the test calls letGo, and whose /open keeps its stream open.
async function hangingApp (t: Test, options: AppOptions = {}): Promise<HangingApp> {
  const app = await buildApp(t, { replaceTimeout: 50, ...options })
  const streams: Stream[] = []
  let letGo = () => {}
  const held = new Promise<void>(resolve => { letGo = resolve })
  app.fastify.get('/hangs', { sse: 'only' }, async (_request, reply) => {
    streams.push(await reply.startStream('ann'))
    await held
  })
  app.fastify.get('/open', { sse: 'only' }, async (_request, reply) => {
    const stream = await reply.startStream('ann')
    streams.push(stream)
    stream.keepAlive()
  })
  for (const property of ['closed', 'gone'] as const) {
    app.fastify.get(`/awaits/${property}`, { sse: 'only' }, async (_request, reply) => {
      const stream = await reply.startStream('ann')
      streams.push(stream)
      app.fastify.server.emit('reason', await stream[property])
    })
  }
  await app.listen()
  const { streamRegistry } = app.fastify
  return Object.assign(app, {
    streams,
    letGo,
    warnings: () => app.log.filter(line => line.level === LEVELS.warn),
    async givenUp (count: number) { while (streamRegistry.givenUp !== count) await turn() }
  })
}

/** Stops the plugin's timers, so that a wait for a time limit would never end from now on. */
function stopTime (t: Test): void {
  const clock = FakeTimers.install({ toFake: ['setTimeout', 'clearTimeout'] })
  t.teardown(() => clock.uninstall())
}

t.test('a stream that hangs after its client has disconnected is given up without a successor, with one warning', async t => {
  const app = await hangingApp(t)
  const { streamRegistry } = app.fastify
  const client = await connect(app.url(withSignals('/hangs', { tabId: 'a' })))
  client.leave()
  await app.givenUp(1)
  t.strictSame([streamRegistry.size, await streamRegistry.count('ann'), [...streamRegistry].length], [0, 0, 0])
  t.equal(streamRegistry.get('ann', 'a'), undefined)
  t.match(app.warnings(), [{ msg: /GET \/hangs did not end within replaceTimeout.*Still running: the handler/ }])
  app.letGo()
  await app.givenUp(0)
  t.equal(app.warnings().length, 1)
})

t.test('only the first successor waits for a stream that hangs, and there is one warning', async t => {
  const app = await hangingApp(t)
  const first = await connect(app.url(withSignals('/hangs', { tabId: 'a' })))
  const path = withSignals('/open', { tabId: 'a' })
  await connect(app.url(path))
  t.equal(app.fastify.streamRegistry.givenUp, 1, 'the successor waited until the first stream was given up')
  t.equal(await first.ended, 'clean')
  stopTime(t)
  for (let i = 0; i < 3; i++) t.equal((await connect(app.url(path))).status, 200, 'a later successor does not wait')
  t.equal(app.fastify.streamRegistry.size, 1)
  t.equal(app.warnings().length, 1)
  app.letGo()
  await app.givenUp(0)
  t.equal(app.fastify.streamRegistry.get('ann', 'a'), app.streams.at(-1), 'the late return does not remove the newest stream')
})

t.test('an eviction neither tells, counts nor awaits a stream that was given up', async t => {
  const app = await hangingApp(t)
  const client = await connect(app.url(withSignals('/hangs', { tabId: 'a' })))
  client.leave()
  await app.givenUp(1)
  await connect(app.url(withSignals('/open', { tabId: 'a' })))
  const [hanging] = app.streams as [Stream]
  const reasons: CloseReason[] = []
  hanging.close = (reason = 'finished') => { reasons.push(reason) }
  stopTime(t)
  t.equal(await app.fastify.streamRegistry.evict('ann'), 1)
  t.equal(await app.fastify.streamRegistry.evict('ann'), 0)
  t.strictSame(reasons, [])
  app.letGo()
  await app.givenUp(0)
})

for (const onLimit of ['reject', 'replace-oldest'] as const) {
  t.test(`with onLimit '${onLimit}' streams that were given up take no place and delay no stream`, async t => {
    const app = await hangingApp(t, { maxStreamsPerScope: 2, onLimit })
    for (const tabId of ['a', 'b']) (await connect(app.url(withSignals('/hangs', { tabId })))).leave()
    await app.givenUp(2)
    stopTime(t)
    const clients = []
    for (let i = 0; i < 4; i++) {
      const client = await connect(app.url(withSignals('/open', { tabId: `fresh ${i}` })))
      t.equal(client.status, 200)
      clients.push(client)
      // Two places are free: the second half of the clients needs the places of the first half.
      if (i === 1 && onLimit === 'reject') for (const [index, left] of clients.entries()) { left.leave(); await app.streams[2 + index]!.gone }
    }
    t.equal(app.fastify.streamRegistry.size, 2)
    t.equal(app.warnings().length, 2)
    app.letGo()
    await app.givenUp(0)
  })
}

for (const property of ['closed', 'gone'] as const) {
  t.test(`an onClose callback that waits for stream.${property} is refused with a code, and the stream is gone at once`, async t => {
    const app = await hangingApp(t, { replaceTimeout: 60_000 })
    const codes: string[] = []
    const client = await connect(app.url(withSignals('/open', { tabId: 'a' })))
    const [stream] = app.streams as [Stream]
    stream.onClose(async () => {
      try {
        await stream[property]
      } catch (error) {
        codes.push((error as { code: string }).code)
        throw error
      }
    })
    client.leave()
    t.equal(await stream.gone, 'disconnected')
    t.strictSame(codes, ['FST_ERR_OCTA_STAR_CYCLE'])
    t.match(app.warnings(), [{ msg: 'an onClose callback failed', err: { code: 'FST_ERR_OCTA_STAR_CYCLE' } }])
    t.equal(app.fastify.streamRegistry.size, 0)
  })

  t.test(`an onClose callback that waits for stream.${property} later goes on when the stream is given up`, async t => {
    const app = await hangingApp(t)
    const client = await connect(app.url(withSignals('/open', { tabId: 'a' })))
    const [stream] = app.streams as [Stream]
    const reason = new Promise(resolve => {
      stream.onClose(async () => {
        await turn()
        resolve(await stream[property])
      })
    })
    client.leave()
    t.equal(await reason, 'disconnected')
    await app.givenUp(0)
    t.match(app.warnings(), [{ msg: /Still running: onClose callbacks \(1\)/ }])
    t.equal(app.fastify.streamRegistry.size, 0)
  })
}

t.test('an eviction gives up a holder that waits for its predecessor after the predecessor, never before', async t => {
  for (let round = 0; round < 100; round++) {
    const registry = new Registry({ ...defaults, onLimit: 'replace-oldest', replaceTimeout: 1 }, memoryLog().log)
    const destroyed: string[] = []
    const holder = (name: string) => Object.assign(new PlainHolder(), { destroy: () => { destroyed.push(name) } })
    const [first, second] = [holder('first'), holder('second')]
    const key = streamKey('ann', 'a')
    await registry.replaceAndRegister(key, first)
    const started = registry.replaceAndRegister(key, second)
    t.equal(await registry.evict('ann'), 1)
    t.strictSame(destroyed, ['first', 'second'])
    t.equal(await started, false)
    t.equal(registry.givenUp, 2)
    for (const holder of [first, second]) holder.leave()
    await turn()
    t.equal(registry.givenUp, 0)
  }
})

t.test('a handler may wait for stream.closed', async t => {
  const app = await hangingApp(t, { replaceTimeout: 60_000 })
  const client = await connect(app.url('/awaits/closed'))
  const reason = once(app.fastify.server, 'reason')
  client.leave()
  t.strictSame(await reason, ['disconnected'])
  t.equal(await app.streams[0]!.gone, 'disconnected')
  t.strictSame(app.warnings(), [])
})

t.test('a handler that waits for stream.gone goes on when the stream is given up, and the warning says what the handler waited for', async t => {
  const app = await hangingApp(t)
  const client = await connect(app.url('/awaits/gone'))
  const reason = once(app.fastify.server, 'reason')
  client.leave()
  t.strictSame(await reason, ['disconnected'])
  await app.givenUp(0)
  t.match(app.warnings(), [{ msg: /does it await stream\.gone, which waits for the handler/ }])
})
