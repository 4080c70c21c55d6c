// What a member asks of a connection, without Redis.
import { setTimeout as pause } from 'node:timers/promises'
import FakeTimers from '@sinonjs/fake-timers'
import t from 'tap'
import type { RedisConnection } from '../../lib/redis/connection.ts'
import { Member } from '../../lib/redis/member.ts'
import { CLAIM, RELEASE } from '../../lib/redis/scripts.ts'
import { streamKey } from '../../lib/registry/stream-key.ts'
import { memoryLog } from '../kit/memory-log.ts'

// A claim that was answered NOSCRIPT was sent again behind a newer one of its process: it passed for the newest, and, with
// another process's claim between the two, each waited for the other until replaceTimeout.
t.test('a claim that has to be sent again is wanted no longer once its process has made a newer one', async t => {
  const wanted: Array<() => boolean> = []
  const connection: RedisConnection = {
    canSend: true,
    isSubscribed: true,
    countsReceivers: true,
    async run (_script, _keys, _args, isWanted) {
      if (isWanted !== undefined) wanted.push(isWanted)
      return undefined
    },
    publish: async () => 0,
    resubscribe () {},
    close () {}
  }
  const member = new Member({ prefix: '', lease: 30_000, replaceTimeout: 5_000, log: memoryLog().log }, () => connection)
  const claim = (tab: string) => member.claim({ key: streamKey('ann', tab), released: Promise.resolve(), end () {} })
  await Promise.all([claim('a'), claim('b')])
  t.strictSame(wanted.map(ask => ask()), [true, true])
  await claim('a')
  t.strictSame(wanted.map(ask => ask()), [false, true, true])
  await member.leave()
})

// A process that had stood still took the answer it had not read yet for one of just now, and its clock to be seconds late: its
// next claim passed for one held up, and lost to an older one.
t.test('a claim tells the time at which it is made, however late the answers before it were read', async t => {
  const clock = () => (performance.timeOrigin + performance.now()) * 1000
  const told: number[] = []
  const beats: string[] = []
  const LATE = 1_000
  const connection: RedisConnection = {
    canSend: true,
    isSubscribed: true,
    countsReceivers: true,
    async run ({ sha }, _keys, args) {
      const now = String(clock())
      if (sha === CLAIM.sha) {
        told.push(clock() - Number(args[5]))
        return [now, now]
      }
      // What Redis said before the process stood still.
      beats.push(now)
      if (beats.length > 1) await pause(LATE)
      return [now, 1]
    },
    publish: async () => 1,
    resubscribe () {},
    close () {}
  }
  const member = new Member({ prefix: '', lease: 1_000, replaceTimeout: 5_000, log: memoryLog().log }, () => connection)
  member.onReady()
  await member.join()
  const claim = (tab: string) => member.claim({ key: streamKey('ann', tab), released: Promise.resolve(), end () {} })
  await claim('a')
  // Its restatement is answered late.
  while (beats.length < 2) await pause(10)
  await pause(LATE + 20)
  await claim('b')
  // A busy machine adds some milliseconds. The delay of the late answer must not be included.
  t.ok(told[1]! < LATE / 2 * 1000, `${Math.round(told[1]! / 1000)} ms ago`)
  await member.leave()
})

// The application's client was asked on, and its log told of Redis, after the application had closed.
t.test('a member that left while Redis does not answer asks nothing more, and says nothing', async t => {
  const clock = FakeTimers.install({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'performance'] })
  t.teardown(() => clock.uninstall())
  const asked: string[] = []
  const { log, lines } = memoryLog()
  const connection: RedisConnection = {
    canSend: true,
    isSubscribed: true,
    countsReceivers: true,
    run ({ sha }) {
      asked.push(sha)
      return sha === CLAIM.sha ? Promise.resolve(['1', '1']) : new Promise(() => {})
    },
    publish: async () => 0,
    resubscribe () {},
    close () {}
  }
  const member = new Member({ prefix: '', lease: 30_000, replaceTimeout: 200, log }, () => connection)
  await member.claim({ key: streamKey('ann', 'a'), released: Promise.resolve(), end () {} })
  const left = member.leave()
  await clock.tickAsync(200)
  await left
  t.strictSame(asked, [CLAIM.sha, RELEASE.sha])
  // Longer than from one probe to the next.
  await clock.tickAsync(700)
  t.equal(asked.length, 2)
  t.strictSame(lines, [])
})
