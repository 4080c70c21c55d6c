// What a member asks of a connection: without Redis, and in virtual time.
import t, { type Test } from 'tap'
import type { ConnectionListener, RedisConnection } from '../../lib/redis/connection.ts'
import { Member } from '../../lib/redis/member.ts'
import { claimCommand, digestOf, fieldName, type Command } from '../../lib/redis/protocol.ts'
import * as scripts from '../../lib/redis/scripts.ts'
import type { Script } from '../../lib/redis/scripts.ts'
import { streamKey } from '../../lib/registry/stream-key.ts'
import { memoryLog } from '../kit/memory-log.ts'
import { RedisModel } from '../kit/redis-model.ts'
import { Owner, VirtualTime } from '../kit/virtual-time.ts'
import type { ClusterClaim } from '../../types/index.ts'

type Name = 'CLAIM' | 'BEAT' | 'PROBE' | 'REQUESTS' | 'ASK' | 'RESTATE' | 'RELEASE' | 'EVICT' | 'COUNT' | 'LEAVE'

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
  hears = true
  readonly redis: RedisModel
  listener!: ConnectionListener
  resubscribed = 0

  constructor (time: VirtualTime) {
    this.redis = new RedisModel(() => (time.origin + time.now) * 1000, (channel, message) => {
      if (channel !== this.listener.channel || !this.hears) return 0
      setImmediate(() => this.listener.onMessage(message))
      return 1
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
async function joined (t: Test, lease = 600_000) {
  const time = new VirtualTime(1_800_000_000_000)
  t.teardown(() => time.end())
  const process = time.current = new Owner(time)
  const connection = new ModelConnection(time)
  const { log, lines } = memoryLog()
  const member = new Member({ prefix: '', lease, replaceTimeout: 5_000, log }, listener => {
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
function claimElsewhere ({ redis }: ModelConnection, scope: string, tab: string, number: number): void {
  const key = streamKey(scope, tab)
  const sender = { id: 'another', prefix: '', lease: 600_000 }
  const place = { digest: digestOf(key.scope), field: fieldName(key, sender.id, number), number }
  run(redis, claimCommand(sender, place, { at: 0, tolerance: 0 }))
}

function run (redis: RedisModel, { script, keys, args }: Command<unknown>): unknown {
  return redis.run(script, keys, args)
}

/** How many claims the commands RESTATE have restated. */
function restatedBy (sent: Sent[]): number {
  return sent.filter(({ name }) => name === 'RESTATE').reduce((sum, { keys }) => sum + keys.length - 1, 0)
}

// A claim that was answered NOSCRIPT was sent again behind a newer claim of the same process. The old claim passed for the newest, and,
// with another process's claim between the two, each waited for the other until replaceTimeout.
t.test('a claim that must be sent again is not wanted any more once its process has made a newer claim', async t => {
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
  t.test('counts from its arrival if the process has not waited', async t => {
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

  t.test('counts from the time at which it was made if the process has waited', async t => {
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

// A process that had stood still read an old reply, took the time in the reply for the present, and so took its clock to be seconds late.
// The process's next claim passed for a claim that was held up, and lost to an older claim.
t.test('a claim tells the time at which it was made, however late the replies before it were read', async t => {
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

t.test('a claim that could not be sent is restated with the time at which it was made, by the clock of a later reply', async t => {
  const { member, time, process, connection, run } = await joined(t)
  process.behind = 120_000
  connection.answer = () => Promise.reject(new Error('Connection is closed.'))
  const madeAt = (time.origin + time.now) * 1000
  member.claim(claimOf('ann', 'a'))
  await run(1_000)
  connection.answer = () => undefined
  await run(1_000)
  // A round of restating begins with a command without claims, whose reply tells the time.
  const restated = connection.sent.filter(({ name, args }) => name === 'RESTATE' && args.length > 4)
  t.equal(restated.length, 1)
  t.equal(restated[0]!.args.at(-1), madeAt)
})

// The application's client was asked on, and its log told of Redis, after the application had closed.
t.test('a member that has left while Redis does not answer asks nothing more, and says nothing', async t => {
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

t.test('a member without streams sends nothing', async t => {
  const { member, connection, run } = await joined(t)
  await run(60_000)
  t.strictSame(connection.names(), [])
  const claim = claimOf('ann', 'a')
  member.claim(claim)
  await run(1_000)
  member.release(claim)
  await run(1_000)
  connection.sent.length = 0
  await run(60_000)
  t.strictSame(connection.names(), [])
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

// The member had noted the claim as asked to end, for good, and so overlooked the next request in its record.
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
  t.strictSame(connection.names(), [], 'nothing is waited for')
})

t.test('a deaf member beats every 250 ms and says so once', async t => {
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

// The member counted the claim as asked to end, for good, and overlooked the next request in its record.
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
  t.strictSame(connection.names(), [], 'the bucket is not used any longer')
})

t.test('a member that leaves while its periodic work is due does none of the work', async t => {
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
  const early = new Member({ prefix: '', lease: 600_000, replaceTimeout: 5_000, log: memoryLog().log }, () => connection)
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

// The member counted requests to end claims that Redis did not hold. So a count of Redis that was greater by one went unnoticed.
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

t.test('several questions that meet the same loss start one round of restating', async t => {
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

t.test('Redis that answers two probes at once is back once', async t => {
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

// The reply of BEAT was used after the reply of RESTATE, whose count was greater, and so looked like a loss.
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
