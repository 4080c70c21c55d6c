// A stream's callbacks run in the async context of the stream's own request, whoever ends the stream.
import { setImmediate as turn } from 'node:timers/promises'
import { fastifyRequestContext, requestContext } from '@fastify/request-context'
import t, { type Test } from 'tap'
import type { Stream } from '../lib/index.ts'
import { buildApp, withSignals, type App } from './kit/app.ts'
import { connect } from './kit/client.ts'

declare module '@fastify/request-context' {
  interface RequestContextData { user: string }
}

interface ContextApp {
  app: App
  streams: Stream[]
  /** For each callback that has run: its name, and the user of the context that the callback ran in. */
  seen: string[][]
  /** Sends the user's request, and resolves when its answer has begun. */
  ask: (path: string, user: string) => ReturnType<typeof connect>
}

/** An app whose stream route keeps the context of each callback. `/do` runs an action in the context of another request. */
async function contextApp (t: Test, action: (app: App, streams: Stream[]) => unknown = () => {}): Promise<ContextApp> {
  const app = await buildApp(t)
  const streams: Stream[] = []
  const seen: string[][] = []
  const note = (what: string) => { seen.push([what, requestContext.get('user') ?? 'nobody']) }
  await app.fastify.register(fastifyRequestContext, { defaultStoreValues: request => ({ user: request.headers['x-user'] as string }) })
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    const stream = await reply.startStream('room')
    streams.push(stream)
    if (streams.length > 1) return stream.keepAlive()
    stream.onReplaced(async () => {
      note('onReplaced')
      await turn()
      note('onReplaced, later')
    })
    stream.onClose(async () => {
      note('onClose')
      await turn()
      note('onClose, later')
    })
    stream.signal.addEventListener('abort', () => note('signal'))
    stream.signal.onabort = () => note('onabort')
    stream.closed.then(() => note('closed'))
    await new Promise<void>(resolve => stream.signal.addEventListener('abort', () => resolve()))
    note('handler')
  })
  app.fastify.get('/do', async () => {
    await action(app, streams)
    return 'done'
  })
  await app.listen()
  return { app, streams, seen, ask: (path, user) => connect(app.url(path), { headers: { 'x-user': user } }) }
}

const path = withSignals('/stream', { tabId: 'a' })

function check (t: Test, seen: string[][], callbacks: string[]): void {
  t.strictSame(seen.map(([what]) => what!).sort(), [...callbacks].sort(), 'each callback has run once')
  t.strictSame([...new Set(seen.map(([, user]) => user))], ['ann'], 'each callback ran in the context of Ann\'s request')
}

const CALLBACKS = ['onClose', 'onClose, later', 'signal', 'onabort', 'closed', 'handler']

t.test('a stream that the request of another user replaces', async t => {
  const { streams, seen, ask } = await contextApp(t)
  await ask(path, 'ann')
  await ask(path, 'bob')
  await streams[0]!.gone
  check(t, seen, [...CALLBACKS, 'onReplaced', 'onReplaced, later'])
})

t.test('a stream that the request of another user evicts', async t => {
  const { streams, seen, ask } = await contextApp(t, app => app.fastify.streamRegistry.evict('room'))
  await ask(path, 'ann')
  await ask('/do', 'bob')
  await streams[0]!.gone
  check(t, seen, CALLBACKS)
})

t.test('a stream that the request of another user closes', async t => {
  const { streams, seen, ask } = await contextApp(t, (_app, streams) => streams[0]!.close())
  await ask(path, 'ann')
  await ask('/do', 'bob')
  await streams[0]!.gone
  check(t, seen, CALLBACKS)
})

t.test('a stream that ends because the server closes, by the request of another user or without a request', async t => {
  for (const closer of ['bob', undefined]) {
    const { app, streams, seen, ask } = await contextApp(t, app => { app.fastify.close() })
    await ask(path, 'ann')
    if (closer === undefined) await app.fastify.close()
    else await ask('/do', closer)
    await streams[0]!.gone
    check(t, seen, CALLBACKS)
  }
})

t.test('a stream whose client disconnects', async t => {
  const { streams, seen, ask } = await contextApp(t)
  const client = await ask(path, 'ann')
  client.leave()
  await streams[0]!.gone
  check(t, seen, CALLBACKS)
})

t.test('a cleanup that is registered after the end, even by the request of another user', async t => {
  const late: string[] = []
  const { streams, ask } = await contextApp(t, async (_app, streams) => {
    streams[0]!.onClose(async () => {
      late.push(requestContext.get('user') ?? 'nobody')
      await turn()
      late.push(requestContext.get('user') ?? 'nobody')
    })
  })
  const client = await ask(path, 'ann')
  client.leave()
  await streams[0]!.gone
  await ask('/do', 'bob')
  while (late.length < 2) await turn()
  t.strictSame(late, ['ann', 'ann'])
})

t.test('a stream that ends while it waits for its predecessor', async t => {
  const app = await buildApp(t)
  const seen: string[] = []
  let letGo = () => {}
  await app.fastify.register(fastifyRequestContext, { defaultStoreValues: request => ({ user: request.headers['x-user'] as string }) })
  let first: Stream | undefined
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    try {
      const stream = await reply.startStream('room')
      stream.keepAlive()
      if (first !== undefined) return
      first = stream
      stream.onClose(() => new Promise<void>(resolve => { letGo = resolve }))
    } catch (error) {
      seen.push(requestContext.get('user') ?? 'nobody')
      throw error
    }
  })
  await app.listen()
  const ask = (user: string) => connect(app.url(path), { headers: { 'x-user': user } })
  await ask('ann')
  const second = ask('bob')
  while (!first!.closing) await turn()
  const third = ask('cid')
  t.equal((await second).status, 204)
  letGo()
  t.equal((await third).status, 200)
  t.strictSame(seen, ['bob'])
})
