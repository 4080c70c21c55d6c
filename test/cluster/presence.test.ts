// Presence across processes, through a real Redis: a scope comes online once and goes offline once, wherever its streams are and however they end.
import diagnostics from 'node:diagnostics_channel'
import { setTimeout as pause } from 'node:timers/promises'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { ScopeEvent } from '../../lib/index.ts'
import { streamKey } from '../../lib/registry/stream-key.ts'
import { pendingStream, startOn, type FakeStream } from '../kit/fake-stream.ts'
import { memberProcess } from '../kit/member-process.ts'
import { redisOptions, redisServer } from '../kit/redis.ts'
import { redisProxy } from '../kit/redis-proxy.ts'

// Stops only a test that hangs.
t.setTimeout(120_000)

/** Starts a Redis, and listens to the scope events of all processes. All processes of the cluster run in this process here. */
async function site (t: Test, offlineDelay = 100) {
  const events: string[] = []
  for (const state of ['online', 'offline']) {
    const note = (event: unknown) => { events.push(`${state} ${(event as ScopeEvent).scopeKey}`) }
    diagnostics.subscribe(`octa-star:scope:${state}`, note)
    t.teardown(() => diagnostics.unsubscribe(`octa-star:scope:${state}`, note))
  }
  const server = await redisServer(t)
  return {
    server,
    events,
    /** Restarts Redis without the data. Resolves when the processes have restated the index of members. */
    async restartEmpty () {
      await server.kill()
      await server.start()
      const admin = server.client()
      while (await admin.exists('octa-star:{0}:members') === 0) await pause(10)
    },
    /** Resolves when `count` events have come. */
    async next (count: number) { while (events.length < count) await pause(5) },
    async join (redis = server.client()) {
      const { registry, said, leave } = await memberProcess(t, redis, { offlineDelay, observesScopes: true })
      return {
        redis,
        registry,
        said,
        leave,
        async open (scope: string, tab: string): Promise<FakeStream> {
          const key = streamKey(scope, tab)
          const pending = pendingStream({ key })
          await startOn(registry, pending, key)
          return pending
        },
        async close ({ stream }: FakeStream) {
          stream.close()
          stream.handlerReturned()
          await stream.gone
        }
      }
    }
  }
}

t.test('a scope with streams in two processes comes online once, and goes offline once, when the last stream is gone', redisOptions, async t => {
  const { events, next, join } = await site(t)
  const [one, two] = [await join(), await join()]
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

t.test('a scope does not go offline when a tab navigates to another process', redisOptions, async t => {
  const { events, next, join } = await site(t)
  const [one, two] = [await join(), await join()]
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

t.test('a user who comes and goes in one process after another is online until no process has had a stream for offlineDelay', redisOptions, async t => {
  const offlineDelay = 2_000
  const { events, next, join } = await site(t, offlineDelay)
  const [one, two] = [await join(), await join()]
  await one.open('ann', 'a').then(one.close)
  await next(1)
  // The delay of the first process has begun, and ends sooner than the delay of the second process.
  await pause(offlineDelay / 4)
  await two.open('ann', 'a').then(two.close)
  const leftAt = performance.now()
  await next(2)
  t.strictSame(events, ['online ann', 'offline ann'])
  t.ok(performance.now() - leftAt > offlineDelay - 10, 'the last stream had been gone for offlineDelay')
})

t.test('the scope of a process that is cut off for good goes offline once, in another process', redisOptions, async t => {
  const { events, next, join } = await site(t)
  const [one, two, three] = [await join(), await join(), await join()]
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

t.test('the scopes of a process that has left cleanly go offline, unless their users come to another process', redisOptions, async t => {
  const { events, next, join } = await site(t, 300)
  const [one, two] = [await join(), await join()]
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
  const { restartEmpty, events, next, join } = await site(t)
  const [one, two] = [await join(), await join()]
  const stream = await one.open('ann', 'a')
  await next(1)
  await restartEmpty()
  await two.open('ann', 'b').then(two.close)
  await one.close(stream)
  while (!events.includes('offline ann')) await pause(5)
  t.equal(events.filter(event => event === 'offline ann').length, 1)
})

t.test('a process that leaves before it is known whether a scope is offline leaves the report to the other processes', redisOptions, async t => {
  const { restartEmpty, events, next, join } = await site(t)
  const one = await join()
  const stream = await one.open('ann', 'a')
  await next(1)
  await restartEmpty()
  await one.close(stream)
  await pause(300)
  await one.leave()
  await pause(2_600)
  t.notOk(events.includes('offline ann'))
})

t.test('while Redis is away scopes come online, and the marks in Redis are updated afterwards', redisOptions, async t => {
  const { server, events, next, join } = await site(t)
  const one = await join()
  await server.kill()
  await one.open('bob', 'a')
  await next(1)
  await server.start()
  // The second event follows as soon as Redis knows the mark.
  await next(2)
  t.strictSame(events, ['online bob', 'online bob'])
  const two = await join()
  await two.open('bob', 'b')
  await two.registry.count('bob')
  await pause(100)
  t.equal(events.length, 2)
})

t.test('a scope whose last stream ends while Redis is away goes offline when Redis is back, and comes online again', redisOptions, async t => {
  const { server, events, next, join } = await site(t)
  const one = await join()
  const stream = await one.open('ann', 'a')
  await next(1)
  server.signal('SIGSTOP')
  // A command that is under way would arrive late.
  while (!one.said().some(message => message.startsWith('Redis is away'))) await pause(10)
  await one.close(stream)
  await pause(300)
  t.strictSame(events, ['online ann'])
  server.signal('SIGCONT')
  await next(2)
  await one.open('ann', 'a')
  await next(3)
  t.strictSame(events, ['online ann', 'offline ann', 'online ann'])
})

t.test('a scope that loses a stream while Redis is away stays online if another process has a stream', redisOptions, async t => {
  const { restartEmpty, server, events, next, join } = await site(t)
  const [one, two] = [await join(), await join()]
  const stream = await one.open('ann', 'a')
  const other = await two.open('ann', 'b')
  await next(1)
  await server.kill()
  await one.close(stream)
  await pause(300)
  await restartEmpty()
  // The process that has lost the stream waits until the other process must have made its mark anew.
  await pause(4_000)
  t.notOk(events.includes('offline ann'), events.join())
  await two.close(other)
  while (!events.includes('offline ann')) await pause(5)
  t.equal(events.at(-1), 'offline ann')
})

t.test('a scope whose user leaves and comes back while Redis is away stays online', redisOptions, async t => {
  const { restartEmpty, server, events, next, join } = await site(t)
  const one = await join()
  const stream = await one.open('ann', 'a')
  await next(1)
  await server.kill()
  await one.close(stream)
  await pause(300)
  await one.open('ann', 'a')
  await restartEmpty()
  // By then a mark that was still to be removed would have been removed.
  await pause(4_000)
  t.notOk(events.includes('offline ann'), events.join())
})

t.test('a scope that went offline because its process was cut off from Redis comes online again when the process is back', redisOptions, async t => {
  const { server, events, next, join } = await site(t)
  const proxy = await redisProxy(t, server.port)
  const redis = new Redis({ port: proxy.port, retryStrategy: () => 50 })
  redis.on('error', () => {})
  t.teardown(() => redis.disconnect())
  const one = await join(redis)
  await join()
  await one.open('ann', 'a')
  await next(1)
  proxy.cut()
  await next(2)
  t.equal(events[1], 'offline ann')
  proxy.mend()
  await next(3)
  t.equal(events[2], 'online ann')
})

t.test('a scope whose mark Redis has lost goes offline', redisOptions, async t => {
  const { server, events, next, join } = await site(t)
  const one = await join()
  const stream = await one.open('ann', 'a')
  await next(1)
  // No process learns of a loss of the mark alone, so the process does not make the mark again.
  const admin = server.client()
  await admin.del(await admin.keys('octa-star:*:online'))
  await one.close(stream)
  await next(2)
  t.strictSame(events, ['online ann', 'offline ann'])
})
