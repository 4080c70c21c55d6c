// Presence across processes, through a real Redis: a scope comes online once and goes offline once, wherever its streams are and however they end.
import diagnostics from 'node:diagnostics_channel'
import { setTimeout as pause } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { ScopeEvent } from '../../lib/index.ts'
import { defaults } from '../../lib/options.ts'
import { redisCluster } from '../../lib/redis/index.ts'
import { Registry } from '../../lib/registry/registry.ts'
import { streamKey } from '../../lib/registry/stream-key.ts'
import { clusterContext } from '../kit/cluster-context.ts'
import { pendingStream, startOn, type FakeStream } from '../kit/fake-stream.ts'
import { memoryLog } from '../kit/memory-log.ts'
import { redisOptions, redisServer, type RedisServer } from '../kit/redis.ts'

// Stops only a test that hangs.
t.setTimeout(120_000)

/** Listens to the events of scopes in all processes, which are one process here. */
function listen (t: Test) {
  const events: string[] = []
  for (const state of ['online', 'offline']) {
    const note = (event: unknown) => { events.push(`${state} ${(event as ScopeEvent).scopeKey}`) }
    diagnostics.subscribe(`octa-star:scope:${state}`, note)
    t.teardown(() => diagnostics.unsubscribe(`octa-star:scope:${state}`, note))
  }
  const next = async (count: number) => { while (events.length < count) await pause(5) }
  return { events, next }
}

async function join (t: Test, server: RedisServer, offlineDelay = 100) {
  const redis: Redis = server.client()
  const { log } = memoryLog()
  const registry = new Registry({ ...defaults, onLimit: 'replace-oldest', offlineDelay }, log)
  const cluster = registry.cluster = await redisCluster({ redis }).join(clusterContext({ log, offlineDelay, observesScopes: true, registry }))
  let hasLeft = false
  const leave = async () => {
    if (hasLeft) return
    hasLeft = true
    await registry.close(1_000)
    await cluster.leave()
  }
  t.teardown(leave)
  const open = async (scope: string, tab: string): Promise<FakeStream> => {
    const key = streamKey(scope, tab)
    const pending = pendingStream({ key })
    await startOn(registry, pending, key)
    return pending
  }
  const close = async ({ stream }: FakeStream) => {
    stream.close()
    stream.handlerReturned()
    await stream.gone
  }
  return { redis, registry, open, close, leave }
}

t.test('a scope with streams in two processes comes online once, and goes offline once, when the last stream is gone', redisOptions, async t => {
  const { events, next } = listen(t)
  const server = await redisServer(t)
  const [one, two] = [await join(t, server), await join(t, server)]
  const first = await one.open('ann', 'a')
  await next(1)
  const second = await two.open('ann', 'b')
  await one.open('bob', 'a')
  await next(2)
  await one.close(first)
  await two.registry.count('ann')
  await pause(300)
  t.strictSame(events, ['online ann', 'online bob'], 'the other process has a stream')
  await two.close(second)
  await next(3)
  t.equal(events[2], 'offline ann')
  await one.open('ann', 'a')
  await next(4)
  t.equal(events[3], 'online ann')
})

t.test('a navigation to another process is no absence', redisOptions, async t => {
  const { events, next } = listen(t)
  const server = await redisServer(t)
  const [one, two] = [await join(t, server), await join(t, server)]
  const stream = await one.open('ann', 'a')
  await next(1)
  const replaced = stream.stream.signal
  const opened = two.open('ann', 'a')
  if (!replaced.aborted) await new Promise(resolve => replaced.addEventListener('abort', resolve))
  stream.stream.handlerReturned()
  await opened
  await pause(500)
  t.strictSame(events, ['online ann'])
})

t.test('the scope of a process that is cut off for good goes offline once, in another process', redisOptions, async t => {
  const { events, next } = listen(t)
  const server = await redisServer(t)
  const [one, two, three] = [await join(t, server), await join(t, server), await join(t, server)]
  await one.open('ann', 'a')
  await one.open('bob', 'a')
  await two.open('bob', 'b')
  await next(2)
  one.redis.disconnect()
  await next(3)
  await pause(1_500)
  t.strictSame(events, ['online ann', 'online bob', 'offline ann'])
  t.equal(await three.registry.count('bob'), 1)
})

t.test('the scopes of a process that has left in good order go offline, unless their users come to another process', redisOptions, async t => {
  const { events, next } = listen(t)
  const server = await redisServer(t)
  const [one, two] = [await join(t, server, 300), await join(t, server, 300)]
  await one.open('ann', 'a')
  await one.open('bob', 'a')
  await next(2)
  await one.leave()
  await two.open('bob', 'a')
  await next(3)
  await pause(1_500)
  t.strictSame(events, ['online ann', 'online bob', 'offline ann'])
})

t.test('a Redis that restarts empty forgets no scope that is online', redisOptions, async t => {
  const { events, next } = listen(t)
  const server = await redisServer(t)
  const [one, two] = [await join(t, server), await join(t, server)]
  const stream = await one.open('ann', 'a')
  await next(1)
  await server.kill()
  await server.start()
  const admin = server.client()
  while (await admin.exists('octa-star:{0}:members') === 0) await pause(10)
  await two.open('ann', 'b').then(two.close)
  await one.close(stream)
  while (!events.includes('offline ann')) await pause(5)
  t.equal(events.filter(event => event === 'offline ann').length, 1)
})

t.test('a process that leaves before it is known whether a scope is offline leaves that to the others', redisOptions, async t => {
  const { events, next } = listen(t)
  const server = await redisServer(t)
  const one = await join(t, server)
  const stream = await one.open('ann', 'a')
  await next(1)
  await server.kill()
  await server.start()
  const admin = server.client()
  while (await admin.exists('octa-star:{0}:members') === 0) await pause(10)
  await one.close(stream)
  await pause(300)
  await one.leave()
  await pause(2_600)
  t.strictSame(events, ['online ann'])
})

t.test('while Redis is away each process tells of its own scopes, and the marks are made up for afterwards', redisOptions, async t => {
  const { events, next } = listen(t)
  const server = await redisServer(t)
  const one = await join(t, server)
  await server.kill()
  const stream = await one.open('ann', 'a')
  await next(1)
  await one.close(stream)
  await next(2)
  t.strictSame(events, ['online ann', 'offline ann'])
  await one.open('bob', 'a')
  await next(3)
  await server.start()
  const two = await join(t, server)
  const admin = server.client()
  const marked = async () => (await Promise.all((await admin.keys('octa-star:*:online')).map(key => admin.hvals(key)))).flat()
  while (!(await marked()).includes('"bob"')) await pause(10)
  await two.open('bob', 'b')
  await two.registry.count('bob')
  await pause(100)
  t.strictSame(events.filter(event => event.endsWith('bob')), ['online bob'])
})
