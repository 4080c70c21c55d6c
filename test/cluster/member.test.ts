// The commands that a member sends on a connection: without Redis, and in virtual time.
import t, { type Test } from 'tap'
import type { ConnectionListener, RedisConnection } from '../../lib/redis/connection.ts'
import { Member } from '../../lib/redis/member.ts'
import {
  beatCommand, bucketOf, claimCommand, digestOf, fieldName, listText, markCommand, MIN_LEASE, parseMessage, recordKey, releaseCommand, replyCommand, restateCommand, scopeKey, sendText, watchCommand, type Command, type Message, type ReplyPage
} from '../../lib/redis/protocol.ts'
import * as scripts from '../../lib/redis/scripts.ts'
import type { Script } from '../../lib/redis/scripts.ts'
import { streamKey } from '../../lib/registry/stream-key.ts'
import { clusterContext } from '../kit/cluster-context.ts'
import { memoryLog } from '../kit/memory-log.ts'
import { RedisModel } from '../kit/redis-model.ts'
import { Owner, VirtualTime } from '../kit/virtual-time.ts'
import type { ClusterClaim, ClusterContext, ClusterMessage } from '../../types/index.ts'

type Name = 'CLAIM' | 'BEAT' | 'PROBE' | 'REQUESTS' | 'ASK' | 'RESTATE' | 'RELEASE' | 'EVICT' | 'COUNT' | 'SEND' | 'REPLY' | 'MARK' | 'WATCH' | 'SWEEP' | 'LEAVE'

/** A command that the member has sent. */
interface Sent {
  readonly name: Name
  readonly keys: string[]
  readonly args: Array<string | number>
  /** Unit: milliseconds. */
  readonly at: number
}

/** Runs commands in a model of Redis. A test may answer instead of the model. */
class ModelConnection implements RedisConnection {
  canSend = true
  isSubscribed = true
  countsReceivers = true
  readonly sent: Sent[] = []
  readonly wanted: Array<() => boolean> = []
  /** Answers instead of the model, unless the result is `undefined`. */
  answer: (sent: Sent) => Promise<unknown> | undefined = () => undefined
  /** `false` on a connection that is broken, and about which Redis does not know yet. */
  hears = true
  /** Whether the messages take a way on which Redis does not count this subscription. */
  isUncounted = false
  /** Gets the messages to members, and returns how many subscriptions receive each message. */
  elsewhere: (channel: string, message: string) => number = () => 0
  readonly redis: RedisModel
  listener!: ConnectionListener
  resubscribed = 0

  constructor (time: VirtualTime) {
    this.redis = new RedisModel(() => (time.origin + time.now) * 1000, (channel, message) => {
      if (channel !== this.listener.channel) return this.elsewhere(channel, message)
      if (this.hears) setImmediate(() => this.listener.onMessage(message))
      return Number(!this.isUncounted)
    })
  }

  async run (script: Script, keys: string[], args: Array<string | number>, isWanted?: () => boolean): Promise<unknown> {
    if (isWanted !== undefined) this.wanted.push(isWanted)
    const name = Object.entries(scripts).find(([, each]) => each === script)![0] as Name
    const sent = { name, keys, args, at: performance.now() }
    this.sent.push(sent)
    return await (this.answer(sent) ?? this.redis.run(script, keys, args))
  }

  nodeOf (): undefined {}
  names (): Name[] { return this.sent.splice(0).map(({ name }) => name) }
  resubscribe (): void { this.resubscribed++ }
  close (): void {}
}

/** A member in virtual time, without streams. */
async function joined (t: Test, lease = 600_000, streams: Partial<Pick<ClusterContext, 'deliver' | 'list' | 'observesScopes' | 'wentOffline'>> = {}) {
  const time = new VirtualTime(1_800_000_000_000)
  t.teardown(() => time.end())
  const process = time.current = new Owner(time)
  const connection = new ModelConnection(time)
  const { log, lines } = memoryLog()
  const member = new Member({ prefix: '', lease, maxMessageBytes: 1_048_576, ...clusterContext({ log, replaceTimeout: 5_000 }), ...streams }, listener => {
    connection.listener = listener
    return connection
  })
  member.onReady()
  member.join()
  await time.run(50)
  connection.sent.length = 0
  const run = async (milliseconds: number) => {
    await time.run(time.now + milliseconds)
    time.current = process
  }
  time.current = process
  return { time, process, connection, member, lines, run }
}

function claimOf (scope: string, tab: string): ClusterClaim & { reasons: string[] } {
  const reasons: string[] = []
  return { key: streamKey(scope, tab), released: Promise.resolve(), end (reason) { reasons.push(reason) }, reasons }
}

/** Another member claims the same key. */
function claimElsewhere ({ redis }: ModelConnection, scope: string, tab: string, number: number, id = 'another'): void {
  const { sender, place } = claimBy(id, scope, tab, number)
  run(redis, claimCommand(sender, place, { at: 0, tolerance: 0 }))
}

/** Another member restates its only claim in a scope, which is older than everything else. Returns why the claim must end. */
function restateElsewhere ({ redis }: ModelConnection, scope: string, id: string): string[] {
  const { sender, place } = claimBy(id, scope, 'a tab', 1)
  const command = restateCommand(sender, bucketOf(place.digest), [{ ...place, token: 1 }])
  return command.parse(run(redis, command)).ended.map(({ reason }) => reason)
}

function releaseElsewhere ({ redis }: ModelConnection, scope: string, id: string): void {
  const { sender, place } = claimBy(id, scope, 'a tab', 1)
  run(redis, releaseCommand(sender, bucketOf(place.digest), [{ ...place, newest: 1 }]))
}

function claimBy (id: string, scope: string, tab: string, number: number) {
  const key = streamKey(scope, tab)
  return { sender: { id, prefix: '', lease: 600_000 }, place: { digest: digestOf(key.scope), field: fieldName(key, id, number), number } }
}

/** The commands, without the beats of a member without streams: the member renews its record in bucket 0, and its entry in the index. */
function apartFromIdleBeats (sent: Sent[]): Name[] {
  return sent.filter(({ name, keys }) => name !== 'BEAT' || keys[1] !== '{0}:members' || keys.length > 2).map(({ name }) => name)
}

/** Another member, which is dead, has marked a scope as online. Returns the scope. */
function markElsewhere ({ redis }: ModelConnection, scopeKey: string, id: string): string {
  const { sender, place: { digest } } = claimBy(id, scopeKey, 'a tab', 1)
  const { scope } = streamKey(scopeKey)
  run(redis, watchCommand(sender, []))
  run(redis, markCommand(sender, bucketOf(digest), [{ digest, scope }]))
  return scope
}

function run (redis: RedisModel, { script, keys, args }: Command<unknown>): unknown {
  return redis.run(script, keys, args)
}

/** How many claims the commands RESTATE have restated. */
function restatedBy (sent: Sent[]): number {
  return sent.filter(({ name }) => name === 'RESTATE').reduce((sum, { keys }) => sum + keys.length - 1, 0)
}

/** The names of the keys in Redis, apart from the records and the index of members. */
function storedScopes ({ redis }: ModelConnection): string[] {
  return Object.keys(redis.dump()).filter(name => !name.includes(':member'))
}

// A claim that was answered NOSCRIPT was sent again after a newer claim of the same process. Redis took the old claim for the newest. If
// a claim of another process came between the two claims, both processes waited until replaceTimeout.
t.test('a claim that must be sent again is dropped once its process has made a newer claim', async t => {
  const { member, connection, run } = await joined(t)
  member.claim(claimOf('ann', 'a'))
  member.claim(claimOf('ann', 'b'))
  await run(10)
  t.strictSame(connection.wanted.map(ask => ask()), [true, true])
  member.claim(claimOf('ann', 'a'))
  await run(10)
  t.strictSame(connection.wanted.map(ask => ask()), [false, true, true])
})

t.test('a claim that Redis calls late', async t => {
  // A process whose virtual machine was suspended takes Redis's clock to be minutes behind.
  t.test('a late claim counts from its arrival if the process has not waited', async t => {
    const { member, process, connection, run } = await joined(t)
    process.behind = 120_000
    member.claim(claimOf('ann', 'a'))
    await run(10)
    const claims = connection.sent.filter(({ name }) => name === 'CLAIM')
    t.equal(claims.length, 2)
    t.strictSame(claims[1]!.args.slice(6), [0, 0])
    // The reply has told the time.
    member.claim(claimOf('ann', 'a'))
    await run(10)
    t.equal(connection.sent.filter(({ name }) => name === 'CLAIM').length, 3)
  })

  t.test('a late claim counts from the time at which the claim was made if the process has waited', async t => {
    const { member, time, connection, run } = await joined(t)
    const { redis } = connection
    const madeAt = (time.origin + time.now) * 1000
    let isFirst = true
    connection.answer = ({ name, keys, args }) => {
      if (name !== 'CLAIM' || !isFirst) return undefined
      isFirst = false
      return new Promise(resolve => setTimeout(() => resolve(redis.run(scripts.CLAIM, keys, args)), 1_200))
    }
    member.claim(claimOf('ann', 'a'))
    await run(1_300)
    const claims = connection.sent.filter(({ name }) => name === 'CLAIM')
    t.equal(claims.length, 2)
    t.strictSame(claims[1]!.args.slice(6), [madeAt, -1])
  })
})

// A process that had stood still read an old reply, took the time in the reply for the present, and so believed that the clock was seconds
// late. The next claim of the process looked like a claim that was held up, and lost to an older claim.
t.test('a claim carries the time at which the claim was made, however late the process read earlier replies', async t => {
  const { member, time, connection, run } = await joined(t)
  const { redis } = connection
  member.claim(claimOf('ann', 'a'))
  connection.answer = ({ name, keys, args }) => {
    if (name !== 'BEAT') return undefined
    const reply = redis.run(scripts.BEAT, keys, args)
    return new Promise(resolve => setTimeout(() => resolve(reply), 1_500))
  }
  await run(5_000)
  member.claim(claimOf('ann', 'b'))
  const { args } = connection.sent.findLast(({ name }) => name === 'CLAIM')!
  t.equal(args[6], (time.origin + time.now) * 1000)
})

t.test('a claim that could not be sent is restated with the time at which the claim was made, by the clock of a later reply', async t => {
  const { member, time, process, connection, run } = await joined(t)
  process.behind = 120_000
  connection.answer = () => Promise.reject(new Error('Connection is closed.'))
  const madeAt = (time.origin + time.now) * 1000
  member.claim(claimOf('ann', 'a'))
  await run(1_000)
  connection.answer = () => undefined
  await run(1_000)
  // A round of restating begins with a command without claims. The reply to this command contains the time.
  const restated = connection.sent.filter(({ name, args }) => name === 'RESTATE' && args.length > 4)
  t.equal(restated.length, 1)
  t.equal(restated[0]!.args.at(-1), madeAt)
})

// The member kept asking the application's client, and logged that Redis was away, after the application had closed.
t.test('a member that has left while Redis does not answer sends nothing more, and logs nothing', async t => {
  const { member, connection, lines, run } = await joined(t)
  member.claim(claimOf('ann', 'a'))
  await run(100)
  connection.sent.length = 0
  connection.answer = () => new Promise(() => {})
  let hasLeft = false
  member.leave().then(() => { hasLeft = true })
  await run(2_600)
  t.ok(hasLeft)
  t.strictSame(connection.names(), ['RELEASE'])
  await run(60_000)
  t.strictSame(connection.names(), [])
  t.strictSame(lines, [])
})

t.test('a member without streams sends nothing but the beats that keep it in the index of members', async t => {
  const { member, connection, run } = await joined(t)
  await run(60_000)
  t.strictSame(apartFromIdleBeats(connection.sent), [])
  t.ok(connection.sent.length > 60 && connection.sent.length <= 82, `${connection.sent.length} beats`)
  const claim = claimOf('ann', 'a')
  member.claim(claim)
  await run(1_000)
  member.release(claim)
  await run(1_000)
  connection.sent.length = 0
  await run(60_000)
  t.strictSame(apartFromIdleBeats(connection.sent), [])
})

t.test('after a loss each claim is restated once, in pages of 250, one bucket after another', async t => {
  const { member, connection, run } = await joined(t)
  // The scopes are in different buckets.
  for (const scope of ['ann', 'bob']) for (let i = 0; i < 600; i++) member.claim(claimOf(scope, `tab ${i}`))
  await run(1_000)
  t.notOk(connection.sent.some(({ name }) => name === 'RESTATE'))
  connection.redis.restart()
  connection.sent.length = 0
  let running = 0
  connection.answer = ({ name, keys, args }) => {
    if (name !== 'RESTATE') return undefined
    t.equal(++running, 1)
    return new Promise(resolve => setTimeout(() => {
      running--
      resolve(connection.redis.run(scripts.RESTATE, keys, args))
    }, 20))
  }
  await run(10_000)
  const restated = connection.sent.filter(({ name }) => name === 'RESTATE')
  t.strictSame(restated.map(({ keys }) => keys.length - 1), [250, 250, 100, 250, 250, 100])
  t.strictSame(restated.map(({ keys }) => keys[0] === restated[0]!.keys[0]), [true, true, true, false, false, false])
  t.equal(new Set(restated.flatMap(({ args }) => args.slice(4).filter((_, i) => i % 3 === 1))).size, 1_200)
})

// The member had noted for good that the claim was told to end, and so overlooked the next request to end the claim.
t.test('a claim that is gone before its restatement is answered is released again', async t => {
  const { member, connection, run } = await joined(t, 1_000)
  const claim = claimOf('ann', 'a')
  member.claim(claim)
  await run(10)
  const restated = new Promise<void>(resolve => {
    connection.answer = ({ name }) => {
      if (name !== 'RESTATE') return undefined
      member.release(claim)
      connection.answer = () => undefined
      resolve()
      return new Promise(resolve => setTimeout(() => resolve(['1800000000000000', 5, 1, 'replaced']), 10))
    }
  })
  await run(1_000)
  await restated
  t.strictSame(claim.reasons, [])
  t.strictSame(connection.names().filter(name => name === 'RELEASE'), ['RELEASE', 'RELEASE'])
  await run(10_000)
  t.strictSame(apartFromIdleBeats(connection.sent), [], 'the member sends nothing but its beats')
})

t.test('a deaf member beats every 250 ms, and logs its deafness once', async t => {
  const { member, connection, lines, run } = await joined(t)
  member.claim(claimOf('ann', 'a'))
  await run(1_000)
  connection.isSubscribed = connection.hears = false
  connection.sent.length = 0
  const deafAt = performance.now()
  member.onDeaf(new Error('NOPERM'))
  await run(10_000)
  const beats = connection.sent.filter(({ name }) => name === 'BEAT')
  t.ok(beats[0]!.at - deafAt < 1, 'the first beat is sent at once')
  t.ok(beats.slice(1).every(({ at }, i) => at - beats[i]!.at <= 375))
  t.equal(beats.length, 41)
  t.ok(beats.every(({ args }) => args[3] === 1))
  t.strictSame(lines.map(({ level, details }) => [level, (details.err as Error).message]), [['warn', 'NOPERM']])
  connection.isSubscribed = connection.hears = true
  member.onReady()
  await run(100)
  connection.sent.length = 0
  await run(8_000)
  t.ok(connection.sent.filter(({ name }) => name === 'BEAT').length <= 10)
  t.equal(lines.length, 2)
})

t.test('a member that does not receive its own beats subscribes again', async t => {
  const { member, connection, run } = await joined(t)
  member.claim(claimOf('ann', 'a'))
  await run(1_000)
  t.equal(connection.resubscribed, 0)
  connection.hears = false
  await run(5_000)
  t.equal(connection.resubscribed, 1)
})

// After a failover, a subscription may stay with the former master, which passes every message on. The other processes see no receiver.
t.test('a member whose messages come from another server than the server that takes its commands subscribes again, at most every five seconds', async t => {
  const { connection, run } = await joined(t)
  await run(2_000)
  t.equal(connection.resubscribed, 0)
  connection.isUncounted = true
  await run(1_000)
  t.equal(connection.resubscribed, 1)
  await run(4_000)
  t.equal(connection.resubscribed, 1)
  await run(5_000)
  t.equal(connection.resubscribed, 2)
  connection.countsReceivers = false
  await run(20_000)
  t.equal(connection.resubscribed, 2, 'a Redis Cluster does not count all receivers')
})

// The subscription and the commands travel on two connections.
t.test('a beat that arrives before the reply of its command is heard', async t => {
  const { member, connection, lines, run } = await joined(t)
  const { redis } = connection
  connection.answer = ({ name, keys, args }) => {
    if (name !== 'BEAT') return undefined
    const reply = redis.run(scripts.BEAT, keys, args)
    return new Promise(resolve => setTimeout(() => resolve(reply), 10))
  }
  const claim = claimOf('ann', 'a')
  member.claim(claim)
  await run(2_000)
  member.release(claim)
  await run(60_000)
  t.equal(connection.resubscribed, 0)
  t.strictSame(lines, [])
})

// The member had noted for good that the claim was told to end, and so overlooked the next request to end the claim.
t.test('a claim that is released before Redis refuses the claim is not told to end', async t => {
  const { member, connection, run } = await joined(t)
  connection.answer = ({ name }) => name === 'CLAIM' ? new Promise(resolve => setTimeout(() => resolve(['superseded', '1', 1, 'replaced']), 50)) : undefined
  let ended = 0
  const claim = { ...claimOf('ann', 'a'), end () { ended++ } }
  member.claim(claim)
  member.release(claim)
  await run(1_000)
  t.equal(ended, 0)
  connection.sent.length = 0
  await run(10_000)
  t.strictSame(apartFromIdleBeats(connection.sent), [], 'the bucket is not used any longer')
})

t.test('a member that leaves while its periodic work is due does not start the work', async t => {
  const { member, time, process, connection, run } = await joined(t)
  connection.isSubscribed = false
  member.claim(claimOf('ann', 'a'))
  await run(750)
  // The work is due at 1,000 ms, and begins after a turn of the event loop.
  time.after(1_000 - time.now, () => { member.leave() }, process)
  await run(2_000)
  const left = connection.sent.findIndex(({ name }) => name === 'LEAVE')
  t.ok(left > 0)
  t.strictSame(connection.sent.slice(left + 1).map(({ name }) => name), [])
})

t.test('a claim that is made before Redis has told the time counts from its arrival', async t => {
  const { time, connection, run } = await joined(t)
  const early = new Member({ prefix: '', lease: 600_000, maxMessageBytes: 1_048_576, ...clusterContext({ replaceTimeout: 5_000 }) }, () => connection)
  early.claim(claimOf('ann', 'a'))
  await run(10)
  t.ok(time.now > 0)
  t.equal(connection.sent.find(({ name }) => name === 'CLAIM')!.args[6], 0)
})

t.test('an eviction after a new connection looks twice, and rejects if Redis does not answer the second time', async t => {
  const { member, connection, run } = await joined(t)
  let evictions = 0
  connection.answer = ({ name }) => name === 'EVICT' && ++evictions === 2 ? Promise.reject(new Error('Connection is closed.')) : undefined
  connection.listener.onReady(true)
  let outcome: unknown
  member.evict('"ann"').then(count => { outcome = count }, error => { outcome = error })
  await run(4_000)
  t.equal(evictions, 2)
  t.match(outcome, { code: 'FST_ERR_OCTA_STAR_EVICT' })
})

t.test('with a Redis Cluster, an eviction after a new connection does not wait, because the other nodes have lost nothing', async t => {
  const { member, connection, run } = await joined(t)
  connection.countsReceivers = false
  connection.listener.onReady(true)
  const eviction = outcomeOf(member.evict('"ann"'))
  await run(10)
  t.equal(eviction.now, 0)
})

t.test('an eviction that waits for the claims of other processes after a new connection rejects as soon as the member leaves, and leaves no timer', async t => {
  const { member, connection, run } = await joined(t)
  connection.listener.onReady(true)
  const timers = watchTimers()
  const evictions = ['"ann"', '"bob"'].map(scope => outcomeOf(member.evict(scope).catch(error => error)))
  await run(100)
  t.strictSame(evictions.map(({ now }) => now), ['pending', 'pending'])
  member.leave()
  await run(1)
  for (const { now } of evictions) t.match(now, { code: 'FST_ERR_OCTA_STAR_EVICT', message: /this process leaves the cluster/ })
  t.equal(timers(), 0, 'no timer keeps the process alive')
})

t.test('an eviction that Redis answers after the member has left rejects at once', async t => {
  const { member, connection, run } = await joined(t)
  connection.listener.onReady(true)
  const eviction = outcomeOf(member.evict('"ann"').catch(error => error))
  member.leave()
  await run(1)
  t.match(eviction.now, { code: 'FST_ERR_OCTA_STAR_EVICT', message: /this process leaves the cluster/ })
})

// The clients of both processes wait longer after each failed attempt to connect, and the client of the owner has just failed.
for (const notices of [true, false]) {
  t.test(`after an outage of 4 s an eviction waits for a process whose client connects 4 s later, ${notices ? 'and Redis has lost data' : 'and this process does not know whether Redis has lost data'}`, async t => {
    const site = await joined(t)
    const { member, connection, run } = site
    if (notices) member.claim(claimOf('ann', 'own'))
    await run(10)
    connection.canSend = false
    await run(4_000)
    connection.redis.restart()
    connection.canSend = true
    connection.listener.onReady(true)
    await run(10)
    const eviction = outcomeOf(member.evict(streamKey('ann').scope))
    await run(3_980)
    t.equal(eviction.now, 'pending')

    keepAlive(site, 'owner')
    t.strictSame(restateElsewhere(connection, 'ann', 'owner'), ['evicted'])
    await run(2_600)
    t.equal(eviction.now, 'pending', 'the stream of the owner has not ended')
    releaseElsewhere(connection, 'ann', 'owner')
    await run(500)
    t.equal(eviction.now, 1)
  })
}

// The member counted requests to end claims that Redis did not hold, and so did not notice that the count in Redis was greater by 1.
t.test('a deaf member finds the next request in its record', async t => {
  const deafen = ({ connection, member }: Awaited<ReturnType<typeof joined>>) => {
    connection.isSubscribed = connection.hears = false
    member.onDeaf(new Error('NOPERM'))
  }

  t.test('after Redis has refused a claim that does not end at once', async t => {
    const site = await joined(t)
    const { member, connection, run } = site
    deafen(site)
    let isFirst = true
    connection.answer = ({ name, keys, args }) => {
      if (name !== 'CLAIM' || !isFirst) return undefined
      isFirst = false
      return new Promise(resolve => setTimeout(() => resolve(connection.redis.run(scripts.CLAIM, keys, args)), 1_200))
    }
    const [refused, replaced] = [claimOf('ann', 'a'), claimOf('ann', 'b')]
    member.claim(refused)
    await run(500)
    claimElsewhere(connection, 'ann', 'a', 1)
    await run(800)
    t.strictSame(refused.reasons, ['replaced'])
    member.claim(replaced)
    await run(100)
    claimElsewhere(connection, 'ann', 'b', 2)
    await run(500)
    t.strictSame(replaced.reasons, ['replaced'])
  })

  t.test('after Redis has lost the request to end a claim that does not end at once', async t => {
    const site = await joined(t)
    const { member, connection, run } = site
    const [slow, replaced] = [claimOf('ann', 'a'), claimOf('ann', 'b')]
    member.claim(slow)
    member.claim(replaced)
    await run(10)
    claimElsewhere(connection, 'ann', 'a', 1)
    await run(10)
    t.strictSame(slow.reasons, ['replaced'])
    connection.redis.restart()
    deafen(site)
    await run(1_000)
    claimElsewhere(connection, 'ann', 'b', 2)
    await run(500)
    t.strictSame(replaced.reasons, ['replaced'])
  })
})

t.test('several questions that notice the same loss start one round of restating', async t => {
  const { member, connection, run } = await joined(t)
  for (let i = 0; i < 20; i++) member.claim(claimOf('ann', `own ${i}`))
  for (let i = 1; i <= 300; i++) claimElsewhere(connection, 'ann', `tab ${i}`, i)
  await run(10)
  member.evict('"ann"').catch(() => {})
  await run(10)
  connection.sent.length = 0
  connection.redis.restart()
  let questions = 0
  connection.answer = ({ name, keys, args }) => {
    if (name !== 'ASK') return undefined
    const reply = connection.redis.run(scripts.ASK, keys, args) as string[]
    t.equal(reply[0], 'lost')
    return new Promise(resolve => setTimeout(() => resolve(reply), 100 * questions++))
  }
  await run(390)
  t.equal(questions, 2, 'two pages')
  t.equal(restatedBy(connection.sent), 20)
})

t.test('a claim that a cursor returns twice is counted once', async t => {
  const { member, connection } = await joined(t)
  const pages = [['5', 'x:', 'y:'], ['0', 'x:']]
  connection.answer = ({ name }) => name === 'COUNT' ? Promise.resolve(pages.shift()) : undefined
  t.equal(await member.count('"ann"'), 2)
})

t.test('a count that Redis does not answer is 0', async t => {
  const { member, connection } = await joined(t)
  connection.answer = ({ name }) => name === 'COUNT' ? Promise.reject(new Error('Connection is closed.')) : undefined
  t.equal(await member.count('"ann"'), 0)
})

t.test('a Redis that answers two probes at once is reported back once', async t => {
  const { member, connection, lines, run } = await joined(t)
  connection.answer = () => Promise.reject(new Error('Connection is closed.'))
  member.claim(claimOf('ann', 'a'))
  await run(100)
  const probes: Array<() => void> = []
  connection.answer = ({ name, keys, args }) => name === 'PROBE' ? new Promise(resolve => probes.push(() => resolve(connection.redis.run(scripts.PROBE, keys, args)))) : undefined
  while (probes.length < 2) await run(100)
  t.equal(lines.length, 1)
  connection.sent.length = 0
  connection.answer = () => undefined
  for (const answer of probes) answer()
  await run(100)
  t.strictSame(lines.map(({ message, details }) => /^Redis is (away|back)/.exec(message ?? details)![1]), ['away', 'back'])
  t.equal(restatedBy(connection.sent), 1)
})

// A client that follows a slot in migration sends a refused probe again after a pause, so a later probe may be answered first.
for (const [name, answer] of [['fails', 'refuse'], ['has no reply in time', 'ignore']] as const) {
  t.test(`a probe that ${name} after another probe has succeeded begins no new outage`, async t => {
    const { member, connection, lines, run } = await joined(t)
    connection.answer = () => Promise.reject(new Error('Connection is closed.'))
    member.claim(claimOf('ann', 'a'))
    await run(100)
    const probes: Array<() => void> = []
    connection.answer = ({ name }) => name === 'PROBE' ? new Promise((_resolve, reject) => probes.push(() => reject(new Error('TRYAGAIN')))) : undefined
    while (probes.length < 1) await run(100)
    connection.answer = () => undefined
    await run(1_000)
    t.match(lines.slice(1), [{ level: 'info', details: 'Redis is back' }])
    if (answer === 'refuse') for (const refuse of probes) refuse()
    await run(5_000)
    t.equal(lines.length, 2)
  })
}

t.test('a claim that Redis calls late while Redis is away is not sent again, and is restated when Redis is back', async t => {
  const { member, connection, lines, run } = await joined(t)
  let answerLate!: () => void
  connection.answer = ({ name }) => name === 'CLAIM' ? new Promise(resolve => { answerLate = () => resolve(['late', String(1_800_000_000_000_000)]) }) : Promise.reject(new Error('Connection is closed.'))
  member.claim(claimOf('ann', 'a'))
  await run(1_000)
  t.match(lines, [{ message: /^Redis is away/ }])
  connection.sent.length = 0
  answerLate()
  await run(1_000)
  t.notOk(connection.names().includes('CLAIM'))
  connection.answer = () => undefined
  await run(1_000)
  t.match(lines.slice(1), [{ details: 'Redis is back' }])
  t.equal(restatedBy(connection.sent), 1)
})

t.test('if Redis goes away again while a bucket is restated, nothing is sent for the next bucket until Redis is back', async t => {
  const { member, connection, lines, run } = await joined(t)
  connection.answer = () => Promise.reject(new Error('Connection is closed.'))
  const scopes = ['ann', 'bea', 'eve']
  t.equal(new Set(scopes.map(scope => bucketOf(digestOf(streamKey(scope, 'a').scope)))).size, scopes.length)
  for (const scope of scopes) member.claim(claimOf(scope, 'a'))
  await run(100)
  connection.sent.length = 0
  connection.answer = ({ name }) => name === 'RESTATE' ? Promise.reject(new Error('Connection is closed.')) : undefined
  while (lines.length < 3) await run(10)
  connection.answer = () => Promise.reject(new Error('Connection is closed.'))
  await run(100)
  t.equal(connection.names().filter(name => name === 'RESTATE').length, 1)
  connection.answer = () => undefined
  await run(1_000)
  t.equal(restatedBy(connection.sent), scopes.length)
})

// The member used the reply to BEAT after the reply to RESTATE. The count in RESTATE was greater, which looked like a loss.
t.test('replies that arrive together are not taken for a loss', async t => {
  const { member, connection, run } = await joined(t, 1_000)
  member.claim(claimOf('ann', 'a'))
  const held: Array<{ readonly name: Name, readonly answer: () => void }> = []
  connection.answer = ({ name, keys, args }) => {
    if (name !== 'BEAT' && (name !== 'RESTATE' || held.length === 0)) return undefined
    const reply = connection.redis.run(scripts[name], keys, args)
    return new Promise(resolve => held.push({ name, answer: () => resolve(reply) }))
  }
  while (held.length < 2) await run(50)
  t.strictSame(held.map(({ name }) => name), ['BEAT', 'RESTATE'])
  connection.answer = () => undefined
  connection.sent.length = 0
  for (const { answer } of held) answer()
  await run(100)
  t.strictSame(connection.names(), [])
})

// A newcomer found no claim of a process that stood still, and started beside the stream of that process.
t.test('with the shortest lease, the key of a scope outlives the record of the process, whenever the process stops', async t => {
  const { member, connection, run } = await joined(t, MIN_LEASE)
  const digests: string[] = []
  let shortest = Infinity
  for (let step = 0; step < 300; step++) {
    // Each scope begins at another time between two renewals.
    if (step < 100) {
      const scope = `user ${step}`
      member.claim(claimOf(scope, 'a'))
      digests.push(digestOf(streamKey(scope).scope))
    }
    await run(100)
    const keys = connection.redis.dump()
    for (const digest of digests) {
      const left = (key: string) => keys[key]?.ttl ?? 0
      shortest = Math.min(shortest, left(scopeKey('', digest)) - left(recordKey('', bucketOf(digest), member.id)))
    }
  }
  t.ok(shortest > 0, `${shortest} ms`)
})

// Messages to streams of another process.

type Site = Awaited<ReturnType<typeof joined>>

/** Another member holds the scope, and receives messages. Returns the messages that this member has received. */
function holdElsewhere ({ connection }: Site, scope: string, id = 'another'): Message[] {
  const received: Message[] = []
  const before = connection.elsewhere
  connection.elsewhere = (channel, message) => {
    if (channel !== `member:${id}`) return before(channel, message)
    received.push(parseMessage(message))
    return 1
  }
  claimElsewhere(connection, scope, `tab of ${id}`, 1, id)
  return received
}

/** Keeps the records of another member alive for the whole test, because the test stops Redis's clock for this member. */
function keepAlive ({ connection, time }: Site, id = 'another'): void {
  const beat = () => {
    const { script, keys, args } = beatCommand({ id, prefix: '', lease: 600_000 }, Array.from({ length: 16 }, (_, bucket) => bucket), false)
    connection.redis.run(script, keys, args)
    time.after(500, beat)
  }
  beat()
}

function sequences (messages: Message[]): number[] {
  return messages.map(message => message.type === 'send' || message.type === 'list' ? message.sequence : NaN)
}

function bucketOfScope (scope: string): number {
  return parseInt(digestOf(streamKey(scope).scope)[0]!, 16)
}

/** Another member replies to the message `sequence` of this member. */
function replyElsewhere ({ connection, member }: Site, scope: string, replies: Array<Partial<ReplyPage>>, id = 'another'): void {
  const pages = replies.map(reply => ({ sequence: 1, page: 0, pages: 1, body: '1', ...reply }))
  run(connection.redis, replyCommand({ id, prefix: '', lease: 600_000 }, bucketOfScope(scope), member.id, pages))
}

const eventTo = (scope: string, text = 'data: 1\n\n'): ClusterMessage => ({ scope: streamKey(scope).scope, text })

/** The value that `promise` has resolved to, or `'pending'`. */
function outcomeOf<T> (promise: Promise<T>): { now: T | 'pending' } {
  const outcome: { now: T | 'pending' } = { now: 'pending' }
  promise.then(value => { outcome.now = value })
  return outcome
}

/** How many timers of `setTimeout` keep the process alive: these have neither fired nor been cleared, and are referenced. */
function watchTimers (): () => number {
  const original = globalThis.setTimeout as unknown as (callback: () => void, delay?: number) => { callback?: unknown, isReferenced: boolean }
  const timers: Array<ReturnType<typeof original>> = []
  globalThis.setTimeout = ((callback: () => void, delay?: number) => {
    const timer = original(() => {
      timer.callback = undefined
      callback()
    }, delay)
    timers.push(timer)
    return timer
  }) as never
  return () => timers.filter(({ callback, isReferenced }) => callback !== undefined && isReferenced).length
}

// A SEND that is answered NOSCRIPT is sent again after all commands that were sent in the meantime.
t.test('one SEND is in flight in a bucket, and the next SEND carries all messages that have come in the meantime', async t => {
  const site = await joined(t)
  const { member, connection, run } = site
  const received = holdElsewhere(site, 'ann')
  const answers: Array<() => void> = []
  connection.answer = ({ name, keys, args }) => name === 'SEND' ? new Promise(resolve => answers.push(() => resolve(connection.redis.run(scripts.SEND, keys, args)))) : undefined
  for (let i = 0; i < 250; i++) member.send(eventTo('ann', `data: ${i}\n\n`))
  await run(10)
  // Another bucket does not wait.
  member.send(eventTo('bob'))
  const sizes: number[] = []
  while (answers.length > 0) {
    sizes.push(...connection.sent.splice(0).filter(({ name }) => name === 'SEND').map(({ args }) => (args.length - 2) / 2))
    for (const answer of answers.splice(0)) answer()
    await run(10)
  }
  t.strictSame(sizes, [1, 1, 100, 100, 49])
  t.strictSame(sequences(received), Array.from({ length: 250 }, (_, i) => i + 1))
  t.strictSame(received.map(message => message.type === 'send' && message.message.text), Array.from({ length: 250 }, (_, i) => `data: ${i}\n\n`))
})

t.test('a SEND carries no more than 1 MiB, unless a single message is longer', async t => {
  const site = await joined(t)
  const { member, connection, run } = site
  connection.elsewhere = () => 1
  for (const length of [1, 400_000, 400_000, 400_000, 2_000_000, 1]) member.send(eventTo('ann', 'x'.repeat(length)))
  await run(10)
  t.strictSame(connection.sent.filter(({ name }) => name === 'SEND').map(({ args }) => (args.length - 2) / 2), [1, 2, 1, 1, 1])
})

t.test('a message resolves to the sum of the replies of all members that Redis told', async t => {
  const site = await joined(t)
  const { member, run } = site
  for (const id of ['one', 'two']) holdElsewhere(site, 'ann', id)
  claimElsewhere(site.connection, 'ann', 'a tab', 1, 'unheard')
  const timers = watchTimers()
  const sent = outcomeOf(member.send(eventTo('ann')))
  await run(10)
  replyElsewhere(site, 'ann', [{ body: '2' }], 'one')
  await run(10)
  t.equal(sent.now, 'pending')
  // A client may send a command twice.
  replyElsewhere(site, 'ann', [{ body: '2' }], 'one')
  replyElsewhere(site, 'ann', [{ body: '3' }], 'two')
  await run(10)
  t.equal(sent.now, 5, 'nobody waits for a member without a subscription')
  await run(2_500)
  t.equal(timers(), 0, 'no timer keeps the process alive')
})

t.test('a member without claims in the scope, or a dead member, is not told', async t => {
  const site = await joined(t)
  const { member, connection, run } = site
  const [dead, other] = [holdElsewhere(site, 'ann', 'dead'), holdElsewhere(site, 'bob', 'other')]
  connection.redis.delete(`{${bucketOfScope('ann').toString(16)}}:member:dead`)
  const sent = outcomeOf(member.send(eventTo('ann')))
  await run(10)
  t.equal(sent.now, 0)
  t.strictSame([dead, other], [[], []])
})

// Messages travel on another connection.
t.test('a reply may overtake the output of SEND', async t => {
  const site = await joined(t)
  const { member, connection, run } = site
  holdElsewhere(site, 'ann')
  connection.answer = ({ name, keys, args }) => {
    if (name !== 'SEND') return undefined
    const output = connection.redis.run(scripts.SEND, keys, args)
    return new Promise(resolve => setTimeout(() => resolve(output), 100))
  }
  const sent = outcomeOf(member.send(eventTo('ann')))
  replyElsewhere(site, 'ann', [{ body: '7' }])
  await run(50)
  t.equal(sent.now, 'pending')
  await run(60)
  t.equal(sent.now, 7)
})

t.test('a message waits for replies for half of replaceTimeout at most, and leaves no timer', async t => {
  const site = await joined(t)
  const { member, connection, run } = site
  connection.countsReceivers = false
  for (const id of ['silent', 'another']) holdElsewhere(site, 'ann', id)
  const timers = watchTimers()
  const first = outcomeOf(member.send(eventTo('ann')))
  replyElsewhere(site, 'ann', [{ body: '3' }])
  await run(1_000)
  for (const id of ['silent', 'another']) keepAlive(site, id)
  const second = outcomeOf(member.send(eventTo('ann')))
  await run(1_490)
  t.strictSame([first.now, second.now], ['pending', 'pending'])
  await run(20)
  t.strictSame([first.now, second.now], [3, 'pending'])
  replyElsewhere(site, 'ann', [{ sequence: 1, body: '9' }, { sequence: 2, body: '4' }])
  await run(970)
  t.equal(second.now, 'pending')
  await run(20)
  t.equal(second.now, 4)
  await run(2_500)
  t.equal(timers(), 0, 'no timer keeps the process alive')
})

t.test('while Redis is away a message resolves to 0, and is not sent later', async t => {
  const site = await joined(t)
  const { member, connection, run } = site
  const received = holdElsewhere(site, 'ann')
  keepAlive(site)
  connection.answer = () => new Promise((_resolve, reject) => setTimeout(() => reject(new Error('Connection is closed.')), 100))
  const timers = watchTimers()
  const [inFlight, waiting] = [member.send(eventTo('ann')), member.send(eventTo('ann'))].map(outcomeOf)
  await run(90)
  t.strictSame([inFlight!.now, waiting!.now], ['pending', 'pending'])
  await run(11)
  t.strictSame([inFlight!.now, waiting!.now], [0, 0])
  await run(2_500)
  t.equal(timers(), 0, 'no timer keeps the process alive')
  connection.sent.length = 0
  const [away, list] = [outcomeOf(member.send(eventTo('ann'))), outcomeOf(member.list(streamKey('ann').scope))]
  await run(1)
  t.strictSame([away.now, list.now], [0, []])
  connection.answer = () => undefined
  await run(5_000)
  t.notOk(member.isAway)
  t.notOk(connection.sent.some(({ name }) => name === 'SEND'))
  t.strictSame(received, [])
  member.send(eventTo('ann'))
  await run(10)
  t.strictSame(sequences(received), [3])
})

t.test('a message that waits for replies is settled when Redis goes away or has lost data, and when the subscription breaks', async t => {
  for (const what of ['outage', 'loss', 'deafness'] as const) {
    const site = await joined(t)
    const { member, connection, run } = site
    for (const id of ['silent', 'another']) holdElsewhere(site, 'ann', id)
    member.claim(claimOf('ann', 'a'))
    const sent = outcomeOf(member.send(eventTo('ann')))
    replyElsewhere(site, 'ann', [{ body: '3' }])
    await run(10)
    t.equal(sent.now, 'pending')
    if (what === 'outage') connection.answer = () => Promise.reject(new Error('Connection is closed.'))
    if (what === 'loss') connection.redis.restart()
    if (what === 'deafness') {
      connection.isSubscribed = false
      member.onDeaf(new Error('the connection of the subscription has ended'))
    }
    await run(1_000)
    t.equal(sent.now, 3, what)
    site.time.end()
  }
})

t.test('a SEND is not sent again if nobody waits for its messages any longer', async t => {
  const site = await joined(t)
  const { member, connection, run } = site
  holdElsewhere(site, 'ann')
  connection.answer = ({ name }) => name === 'SEND' ? new Promise(() => {}) : undefined
  connection.wanted.length = 0
  const sent = outcomeOf(member.send(eventTo('ann')))
  await run(2_400)
  t.strictSame(connection.wanted.map(ask => ask()), [true])
  await run(200)
  t.strictSame(connection.wanted.map(ask => ask()), [false])
  t.equal(sent.now, 0)
})

t.test('a member that leaves settles its messages, sends no more, and does not answer', async t => {
  const site = await joined(t)
  const { member, connection, run } = site
  connection.countsReceivers = false
  holdElsewhere(site, 'ann')
  const timers = watchTimers()
  const sent = outcomeOf(member.send(eventTo('ann')))
  await run(10)
  t.equal(sent.now, 'pending')
  connection.sent.length = 0
  member.onMessage(sendText({ sender: 'another', bucket: 1, sequence: 1 }, eventTo('ann')))
  member.leave()
  const late = outcomeOf(member.send(eventTo('ann')))
  member.onMessage(sendText({ sender: 'another', bucket: 1, sequence: 2 }, eventTo('ann')))
  await run(10)
  t.strictSame([sent.now, late.now], [0, 0])
  t.strictSame(connection.names().filter(name => name === 'SEND' || name === 'REPLY'), [])
  await run(2_500)
  t.equal(timers(), 0, 'no timer keeps the process alive')
})

t.test('a message that arrives twice, or after a later message, is not delivered', async t => {
  const delivered: ClusterMessage[] = []
  const { member, connection, run } = await joined(t, 600_000, { deliver: message => delivered.push(message) })
  const arrive = (sender: string, bucket: number, sequence: number) => member.onMessage(sendText({ sender, bucket, sequence }, { scope: '"ann"', except: 'a b', retry: 5, text: `${sender} ${bucket} ${sequence}\n\n` }))
  for (const sequence of [3, 3, 2, 4]) arrive('one', 1, sequence)
  arrive('one', 2, 1)
  arrive('two', 1, 3)
  t.strictSame(delivered.map(({ text }) => text), ['one 1 3', 'one 1 4', 'one 2 1', 'two 1 3'].map(name => `${name}\n\n`))
  t.strictSame(delivered[0], { scope: '"ann"', tabId: undefined, name: undefined, except: 'a b', retry: 5, text: 'one 1 3\n\n' })

  // Bounded: of 10,000 members the first is forgotten, unless a message of that member has come again.
  for (let i = 0; i < 9_999; i++) arrive(`other ${i}`.replace(' ', '-'), 1, 1)
  arrive('two', 1, 4)
  delivered.length = 0
  arrive('last', 1, 1)
  for (const sender of ['two', 'last', 'other-9998']) arrive(sender, 1, 1)
  t.strictSame(delivered.map(({ text }) => text), ['last 1 1\n\n'])
  arrive('one', 1, 1)
  t.equal(delivered.length, 2)
  await run(10)
  t.ok(connection.sent.every(({ name }) => name === 'REPLY' || name === 'BEAT'))
})

t.test('an outage is reported once, within three seconds, although nobody sends a command, and a short break is not reported', async t => {
  const { connection, member, lines, run } = await joined(t)
  connection.canSend = false
  await run(2_000)
  connection.canSend = true
  await run(5_000)
  t.strictSame(lines, [])
  connection.canSend = false
  await run(3_000)
  t.match(lines, [{ level: 'warn', message: /^Redis is away/ }])
  await run(60_000)
  t.equal(lines.length, 1)
  connection.canSend = true
  member.onReady(true)
  await run(1_000)
  t.match(lines.slice(1), [{ level: 'info', details: 'Redis is back' }])
})

t.test('the scopes of a dead process are reported once, although Redis does not answer now and then', async t => {
  const offline: string[] = []
  const { connection, lines, run } = await joined(t, MIN_LEASE, { observesScopes: () => true, wentOffline: scope => { offline.push(scope) } })
  const scope = markElsewhere(connection, 'ann', 'another')
  connection.answer = ({ name }) => name === 'SWEEP' ? Promise.reject(new Error('Connection is closed.')) : undefined
  while (lines.length === 0) await run(100)
  t.strictSame(offline, [])
  connection.answer = () => undefined
  while (offline.length === 0) await run(100)
  connection.sent.length = 0
  const named = () => connection.sent.filter(({ name }) => name === 'WATCH').map(({ args }) => args.slice(3))
  connection.answer = ({ name }) => name === 'WATCH' ? Promise.reject(new Error('Connection is closed.')) : undefined
  while (lines.length < 3) await run(100)
  connection.answer = () => undefined
  while (named().length < 3) await run(100)
  t.strictSame(named(), [['another'], ['another'], []])
  await run(30_000)
  t.strictSame(offline, [scope])
})

t.test('after a loss, a mark of a scope that counts as offline is not made again, so another process may bring the scope online meanwhile', async t => {
  const offline: string[] = []
  const { connection, member, lines, run } = await joined(t, 600_000, { observesScopes: () => true, wentOffline: scope => { offline.push(scope) } })
  const { scope } = streamKey('ann', 'a')
  const claim = claimOf('ann', 'a')
  member.claim(claim)
  await member.markOnline(scope, () => {})
  connection.answer = () => Promise.reject(new Error('Connection is closed.'))
  member.release(claim)
  while (lines.length === 0) await run(100)
  t.equal(await member.markOffline(scope), false)
  connection.redis.restart()
  connection.sent.length = 0
  connection.answer = () => undefined
  while (lines.length === 1) await run(100)
  await run(1_000)
  t.notOk(connection.names().includes('MARK'))
  while (offline.length === 0) await run(100)
  t.strictSame(offline, [scope])
})

t.test('the replies of one turn to a member and a bucket are one command', async t => {
  const site = await joined(t, 600_000, { deliver: () => 2 })
  const { member, connection, run } = site
  const replies: Message[] = []
  connection.elsewhere = (_channel, message) => replies.push(parseMessage(message))
  for (let sequence = 1; sequence <= 3; sequence++) member.onMessage(sendText({ sender: 'one', bucket: 1, sequence }, eventTo('ann')))
  member.onMessage(sendText({ sender: 'one', bucket: 2, sequence: 1 }, eventTo('ann')))
  member.onMessage(sendText({ sender: 'two', bucket: 1, sequence: 1 }, eventTo('ann')))
  await run(10)
  const page = (sequence: number) => ({ sequence, page: 0, pages: 1, body: '2' })
  t.strictSame(replies, [
    { type: 'reply', member: member.id, bucket: 1, replies: [1, 2, 3].map(page) },
    { type: 'reply', member: member.id, bucket: 2, replies: [page(1)] },
    { type: 'reply', member: member.id, bucket: 1, replies: [page(1)] }
  ])
  // While Redis is away nobody waits for a reply.
  connection.sent.length = 0
  connection.canSend = false
  member.onMessage(sendText({ sender: 'one', bucket: 1, sequence: 9 }, eventTo('ann')))
  await run(10)
  t.strictSame(connection.names(), [])
})

t.test('a long list is sent in pages of 1,000, and joined in any order of arrival', async t => {
  const infos = (prefix: string, length: number) => Array.from({ length }, (_, i) => ({ id: `${prefix} ${i}`, tabId: 'a\u2028b', name: undefined, openedAt: i }))
  const site = await joined(t, 600_000, { list: scope => scope === '"ann"' ? infos('own', 2_500) : [] })
  const { member, connection, run } = site
  const replies: Message[] = []
  connection.elsewhere = (_channel, message) => replies.push(parseMessage(message))
  member.onMessage(listText({ sender: 'one', bucket: 1, sequence: 1 }, '"ann"'))
  member.onMessage(listText({ sender: 'one', bucket: 1, sequence: 2 }, '"bob"'))
  await run(10)
  const pages = replies.flatMap(message => message.type === 'reply' ? message.replies : [])
  t.strictSame(pages.map(({ sequence, page, pages, body }) => [sequence, page, pages, JSON.parse(body).length]), [[1, 0, 3, 1_000], [1, 1, 3, 1_000], [1, 2, 3, 500], [2, 0, 1, 0]])

  holdElsewhere(site, 'ann', 'one')
  holdElsewhere(site, 'ann', 'two')
  const list = outcomeOf(member.list('"ann"'))
  await run(10)
  replyElsewhere(site, 'ann', [2, 0, 2].map(page => ({ ...pages[page]!, sequence: 1 })), 'one')
  replyElsewhere(site, 'ann', [{ body: JSON.stringify(infos('two', 1)) }], 'two')
  await run(10)
  t.equal(list.now, 'pending')
  replyElsewhere(site, 'ann', [pages[1]!], 'one')
  await run(10)
  const ids = (list.now as Array<{ id: string, tabId: string }>).map(({ id, tabId }) => `${id} ${tabId}`).sort()
  t.strictSame(ids, [...infos('own', 2_500), ...infos('two', 1)].map(({ id, tabId }) => `${id} ${tabId}`).sort())
})

t.test('a process is listed for a scope as long as the process has a claim there', async t => {
  const { member, connection, run } = await joined(t)
  const key = `{${digestOf('"ann"')[0]}}:${digestOf('"ann"').slice(1)}`
  const listed = () => connection.redis.dump()[key]?.fields['@']
  const claims = ['a', 'b', 'c'].map(tab => claimOf('ann', tab))
  for (const claim of claims) member.claim(claim)
  await run(10)
  t.equal(listed(), `${member.id} 3`)
  // The claim with the greatest number goes first, and a claim of another process comes between.
  member.release(claims[2]!)
  await run(10)
  claimElsewhere(connection, 'ann', 'a', 1)
  await run(10)
  t.strictSame(claims[0]!.reasons, ['replaced'])
  member.release(claims[1]!)
  await run(10)
  t.equal(listed(), `${member.id} 3 another 1`)
  member.release(claims[0]!)
  await run(10)
  t.equal(listed(), 'another 1')

  // If a claim is replaced in the same process, Redis is not told, unless the claim is the last in the scope.
  const [one, two] = [claimOf('eve', 'a'), claimOf('eve', 'a')]
  member.claim(one)
  member.claim(two)
  member.release(two)
  member.release(one)
  await run(10)
  t.strictSame(storedScopes(connection), [key])
})

// The older claim stayed in Redis, and was counted, for as long as others used the scope.
t.test('the last release of a key forgets an older claim that Redis still stores, if Redis has refused the newer claim', async t => {
  const { member, connection, run } = await joined(t)
  const [old, refused] = [claimOf('ann', 'a'), claimOf('ann', 'a')]
  member.claim(old)
  await run(10)
  connection.answer = ({ name, keys, args }) => name === 'CLAIM' ? new Promise(resolve => setTimeout(() => resolve(connection.redis.run(scripts.CLAIM, keys, args)), 2_000)) : undefined
  member.claim(refused)
  member.release(old)
  member.release(refused)
  await run(5_000)
  t.strictSame(storedScopes(connection), [])
})

t.test('the last release of a key forgets an older claim that Redis still stores, if Redis was away when the newer claim was made', async t => {
  const { member, connection, run } = await joined(t)
  const [old, unsent] = [claimOf('ann', 'a'), claimOf('ann', 'a')]
  member.claim(old)
  member.claim(claimOf('ann', 'b'))
  await run(10)
  connection.canSend = false
  await run(5_000)
  t.ok(member.isAway)
  member.claim(unsent)
  member.release(old)
  member.release(unsent)
  connection.canSend = true
  member.onReady(true)
  await run(5_000)
  t.notOk(member.isAway)
  t.strictSame(Object.values(connection.redis.dump()[storedScopes(connection)[0]!]!.fields).length, 2, 'the claim on the other tab, and the holders')
})

// In a Redis Cluster a command that was first sent to the wrong node arrives behind later commands.
t.test('the release of an old claim leaves a newer claim listed, whatever the order of arrival', async t => {
  const { member, connection, run } = await joined(t)
  const key = `{${digestOf('"ann"')[0]}}:${digestOf('"ann"').slice(1)}`
  const old = claimOf('ann', 'a')
  member.claim(old)
  await run(10)
  connection.answer = ({ name, keys, args }) => name === 'RELEASE' ? new Promise(resolve => setTimeout(() => resolve(connection.redis.run(scripts.RELEASE, keys, args)), 100)) : undefined
  member.release(old)
  await run(10)
  member.claim(claimOf('ann', 'b'))
  await run(10)
  t.equal(connection.redis.dump()[key]!.fields['@'], `${member.id} 2`)
  await run(100)
  t.equal(connection.redis.dump()[key]!.fields['@'], `${member.id} 2`)
})
