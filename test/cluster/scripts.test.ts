// The scripts in a real Redis: their outputs are as protocol.ts says, the simulation's model does the same, and large scopes are walked in pages.
import { deepStrictEqual } from 'node:assert/strict'
import fc from 'fast-check'
import type { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import {
  RECORD_LEASE, askCommand, beatCommand, claimCommand, countCommand, evictCommand, leaveCommand, listText, markCommand, parseMessage, probeCommand, recordKey, releaseCommand, replyCommand, requestsCommand,
  restateCommand, sendCommand, sendText, sweepCommand, unmarkCommand, watchCommand, type Command, type EndReason, type Place, type Sender
} from '../../lib/redis/protocol.ts'
import * as scripts from '../../lib/redis/scripts.ts'
import { redisOptions, redisServer } from '../kit/redis.ts'
import { RedisModel } from '../kit/redis-model.ts'
import { seeded } from '../kit/seed.ts'

const PREFIX = 'test:'
const BUCKET = 10
const SCOPES = ['a1', 'a2'] as const
const MEMBERS = ['m1', 'm2', 'm3'] as const
const NOW = { at: 0, tolerance: 0 }
/** A channel and a message. */
type Message = [string, string]
const sender = (id: string, lease = 60_000): Sender => ({ id, prefix: PREFIX, lease })
const place = (field: string, number: number, digest = 'a1'): Place => ({ digest, field, number })

t.test('protocol.ts reads the output and the messages of every script', redisOptions, async t => {
  const { redis, received } = await redisWithMembers(t)
  const run = async <Reply>(command: Command<Reply>) => {
    const reply = command.parse(await evaluate(redis, command))
    return { reply: withoutTimes(reply), messages: (await received()).map(([channel, message]) => ({ to: channel.slice(-2), ...parseMessage(message) })) }
  }
  const claim = (member: string, field: string, number: number, timing = NOW) => run(claimCommand(sender(member), place(field, number), timing))
  const asked = (member: string, field: string, number: number, receivers: number, reason: EndReason = 'replaced') => ({ digest: 'a1', field, member, number, reason, receivers })
  const end = (to: string, field: string, number: number, reason = 'replaced') => ({ to, type: 'end', reason, digest: 'a1', claims: [{ field, number }] })

  t.strictSame(await run(beatCommand(sender('m1'), [BUCKET, 11], false, 7)), { reply: { receivers: 1, records: [{ ops: -1, requests: 0 }, { ops: -1, requests: 0 }] }, messages: [{ to: 'm1', type: 'beat', number: 7 }] })
  t.strictSame(await run(beatCommand(sender('m3'), [BUCKET], true)), { reply: { receivers: -1, records: [{ ops: -1, requests: 0 }] }, messages: [] })
  t.strictSame(await run(probeCommand(sender('m1'), BUCKET, 8)), { reply: {}, messages: [{ to: 'm1', type: 'beat', number: 8 }] })
  t.strictSame(await claim('m1', 'x:', 1), { reply: { outcome: 'newest', ops: 1, predecessors: [] }, messages: [] })
  t.strictSame(await claim('m2', 'x:', 1), { reply: { outcome: 'newest', ops: 1, predecessors: [asked('m1', 'x:', 1, 1)] }, messages: [end('m1', 'x:', 1)] })
  t.strictSame(await claim('m3', 'x:', 1), { reply: { outcome: 'newest', ops: 1, predecessors: [asked('m1', 'x:', 1, -1), asked('m2', 'x:', 1, 1)] }, messages: [end('m2', 'x:', 1)] })
  t.strictSame(await claim('m1', 'x:', 2, { at: 1, tolerance: 1 }), { reply: { outcome: 'late' }, messages: [] })
  t.strictSame(await claim('m1', 'x:', 2, { at: 1, tolerance: -1 }), { reply: { outcome: 'superseded', ops: 2, reason: 'replaced' }, messages: [] })
  t.strictSame(await run(beatCommand(sender('m1'), [BUCKET], false)), { reply: { receivers: -1, records: [{ ops: 2, requests: 1 }] }, messages: [] })
  t.strictSame(await run(requestsCommand(sender('m1'), BUCKET, '0')), { reply: { cursor: '0', requests: [{ number: 1, reason: 'replaced', digest: 'a1', field: 'x:' }] }, messages: [] })
  t.strictSame(await run(countCommand(sender('m1'), 'a1', '0')), { reply: { cursor: '0', fields: ['x:'] }, messages: [] })

  const question = [{ ...asked('m1', 'x:', 1, 1), isUnheard: false }, { ...asked('m1', 'x:', 9, 1), isUnheard: false }, { ...asked('m2', 'x:', 1, 1), isUnheard: true }] as const
  t.strictSame(await run(askCommand(sender('m3'), BUCKET, 1, false, question)), {
    reply: { outcome: 'asked', pending: [{ index: 0, receivers: 1 }, { index: 2, receivers: 1 }] }, messages: [end('m1', 'x:', 1), end('m2', 'x:', 1)]
  }, 'claim 9 of m1 is gone')
  t.strictSame(await run(askCommand(sender('m3'), BUCKET, 2, false, question)), { reply: { outcome: 'lost' }, messages: [] })

  t.strictSame(await run(releaseCommand(sender('m1'), BUCKET, [{ ...place('x:', 1), newest: 0 }])), {
    reply: undefined, messages: [{ to: 'm2', type: 'gone', member: 'm1', number: 1 }]
  }, 'm3 is told too, but has no subscription')
  t.strictSame(await run(restateCommand(sender('m2'), BUCKET, [{ ...place('x:', 1), token: 1 }, { ...place('y:', 2), token: 1 }])), {
    reply: { ops: 2, ended: [{ index: 0, reason: 'replaced' }] }, messages: []
  })
  t.strictSame(await run(evictCommand(sender('m1'), 'a1', '', '0', NOW)), {
    reply: { outcome: 'evicted', ops: 3, cursor: '0', asked: [asked('m2', 'x:', 1, 1, 'evicted'), asked('m3', 'x:', 1, 0, 'evicted'), asked('m2', 'y:', 2, 1, 'evicted')] },
    messages: [{ ...end('m2', 'x:', 1, 'evicted'), claims: [{ field: 'x:', number: 1 }, { field: 'y:', number: 2 }] }]
  }, 'the replaced claim of m2 is not gone, and its process may not have heard of its end')
  t.strictSame(await run(evictCommand(sender('m1'), 'a1', '', '0', { at: 1, tolerance: 1 })), { reply: { outcome: 'late' }, messages: [] })
  t.strictSame(await run(restateCommand(sender('m2'), BUCKET, [{ ...place('y:', 2), token: 1 }])), { reply: { ops: 3, ended: [{ index: 0, reason: 'evicted' }] }, messages: [] })
  t.strictSame(await run(releaseCommand(sender('m2'), BUCKET, [{ ...place('y:', 2), newest: 2 }])), { reply: undefined, messages: [{ to: 'm1', type: 'gone', member: 'm2', number: 2 }] })

  const name = { sender: 'm1', bucket: BUCKET, sequence: 1 }
  const message = { scope: '"ann lee\u2028"', tabId: 'a b', name: undefined, except: undefined, retry: 5, text: 'data: 1\ndata: 2\n\n' }
  t.strictSame(await run(sendCommand(sender('m1'), BUCKET, [
    { digest: 'a1', text: sendText(name, message) }, { digest: 'a2', text: sendText({ ...name, sequence: 2 }, message) }, { digest: 'a1', text: listText({ ...name, sequence: 3 }, message.scope) }
  ])), {
    // The record of m3 is alive, and m3 does not subscribe.
    reply: { told: [1, 3].flatMap(n => [{ index: n - 1, member: 'm3', receivers: 0 }]) }, messages: []
  }, 'm2 has no claim in the scope any longer')
  await claim('m2', 'x:', 3)
  t.strictSame(await run(sendCommand(sender('m1'), BUCKET, [{ digest: 'a1', text: sendText(name, message) }, { digest: 'a1', text: listText({ ...name, sequence: 2 }, message.scope) }])), {
    reply: { told: [0, 1].flatMap(index => [{ index, member: 'm3', receivers: 0 }, { index, member: 'm2', receivers: 1 }]) },
    messages: [{ to: 'm2', type: 'send', ...name, message }, { to: 'm2', type: 'list', ...name, sequence: 2, scope: message.scope }]
  })
  const pages = [{ sequence: 1, page: 0, pages: 1, body: '2' }, { sequence: 2, page: 1, pages: 2, body: '[{"name":"a b\u2028"}]' }]
  t.strictSame(await run(replyCommand(sender('m2'), BUCKET, 'm1', pages)), { reply: undefined, messages: [{ to: 'm1', type: 'reply', member: 'm2', bucket: BUCKET, replies: pages }] })

  for (const member of MEMBERS) await run(beatCommand(sender(member), [0, BUCKET], false))
  await redis.del(recordKey(PREFIX, 0, 'm3'))
  const messageToAll = { scope: undefined, tabId: undefined, name: undefined, except: undefined, retry: undefined, text: 'data: 1\n\n' }
  const everybody = () => sendCommand(sender('m1'), 0, [{ digest: undefined, text: sendText(name, messageToAll) }])
  t.strictSame(await run(everybody()), {
    reply: { told: [{ index: 0, member: 'm2', receivers: 1 }] }, messages: [{ to: 'm2', type: 'send', ...name, message: messageToAll }]
  })
  t.strictSame(await redis.hkeys(`${PREFIX}{0}:members`), ['m1', 'm2'], 'm3 is dead')
  await run(leaveCommand(sender('m2'), [0, BUCKET]))
  t.strictSame((await run(everybody())).reply, { told: [] })
  await run(leaveCommand(sender('m1'), [0, BUCKET, 11]))
  t.equal(await redis.exists(`${PREFIX}{0}:members`), 0)
  t.equal(await redis.exists(recordKey(PREFIX, BUCKET, 'm1'), recordKey(PREFIX, 11, 'm1')), 0)
})

t.test('PROBE uses every command of the other scripts, and leaves nothing behind', redisOptions, async t => {
  const { redis } = await redisWithMembers(t)
  const commandsOf = (lua: string) => [...lua.matchAll(/redis\.call\('(\w+)'/g)].map(([, command]) => command!)
  const used = Object.values(scripts).flatMap(({ lua }) => commandsOf(lua))
  t.strictSame([...new Set(used)].filter(command => !commandsOf(scripts.PROBE.lua).includes(command)), [])
  await evaluate(redis, probeCommand(sender('m1'), BUCKET, 1))
  t.strictSame(await redis.keys('*'), [])
})

t.test('a claim between two others is told when the oldest claim is gone', redisOptions, async t => {
  const { redis, received } = await redisWithMembers(t, ['m1', 'm2', 'm3', 'm4'])
  for (const member of ['m1', 'm2', 'm3', 'm4']) await evaluate(redis, claimCommand(sender(member), place('x:', 1), NOW))
  await received()
  await evaluate(redis, releaseCommand(sender('m1'), BUCKET, [{ ...place('x:', 1), newest: 1 }]))
  t.strictSame((await received()).map(([channel]) => channel.slice(-2)).sort(), ['m2', 'm3', 'm4'])
})

t.test('a claim waits for an older claim that is evicted and replaced at once', redisOptions, async t => {
  const { redis } = await redisWithMembers(t)
  const claim = (member: string) => claimCommand(sender(member), place('x:', 1), NOW)
  await evaluate(redis, claim('m1'))
  await evaluate(redis, evictCommand(sender('m2'), 'a1', '', '0', NOW))
  await evaluate(redis, claim('m2'))
  await evaluate(redis, restateCommand(sender('m1'), BUCKET, [{ ...place('x:', 1), token: 1 }]))
  const last = claim('m3')
  const reply = last.parse(await evaluate(redis, last))
  t.strictSame(reply.outcome === 'newest' && reply.predecessors.map(({ member }) => member), ['m1', 'm2'])
})

// Both streams ended: the newest stream because the older claim seemed to replace the newest, and the older stream because it was replaced.
t.test('a claim that a client sends twice does not replace its successor', redisOptions, async t => {
  const { redis, received } = await redisWithMembers(t)
  const claim = async (member: string) => {
    const command = claimCommand(sender(member), place('x:', 1), NOW)
    return command.parse(await evaluate(redis, command))
  }
  await claim('m1')
  await claim('m2')
  await received()
  t.match(await claim('m1'), { outcome: 'superseded', reason: 'replaced' })
  t.match(await claim('m2'), { outcome: 'newest' })
  t.strictSame(await received(), [])
})

// Times in seconds before the run, far from what a run of the test lasts.
const age = fc.constantFrom(-20, 0, 20, 40)
const timing = fc.oneof(
  fc.constant('now' as const),
  fc.record({ age: fc.constantFrom(0, 20), tolerance: fc.constant(10) }),
  fc.record({ age, tolerance: fc.constant(-1) })
)
const member = fc.constantFrom(...MEMBERS)
const scope = fc.constantFrom(...SCOPES)
const places = fc.record({ digest: scope, field: fc.constantFrom('x:', 'x:n', 'y:'), number: fc.integer({ min: 1, max: 6 }) })
const buckets = fc.constantFrom([BUCKET], [BUCKET, 11], [0, BUCKET])
const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ type: fc.constant('claim' as const), member, place: places, timing, lease: fc.constantFrom(600_000, 1_800_000) }) },
  // A claim is restated with the token that the claim got, or with any token.
  { weight: 3, arbitrary: fc.record({ type: fc.constant('restate' as const), member, claims: fc.array(fc.record({ place: places, token: fc.option(age, { nil: undefined }) }), { maxLength: 4 }) }) },
  { weight: 3, arbitrary: fc.record({ type: fc.constant('release' as const), member, places: fc.array(fc.record({ place: places, newest: fc.constantFrom(0, 3, 6) }), { minLength: 1, maxLength: 3 }) }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('evict' as const), member, scope, fields: fc.constantFrom('', 'x:'), timing }) },
  {
    weight: 3,
    arbitrary: fc.record({
      type: fc.constant('ask' as const),
      member,
      ops: fc.constantFrom(0, 1, 3),
      mayMiss: fc.boolean(),
      asked: fc.array(fc.record({ member, place: places, reason: fc.constantFrom('replaced' as const, 'evicted' as const), isUnheard: fc.boolean() }), { maxLength: 4 })
    })
  },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('beat' as const), member, buckets, isDeaf: fc.boolean(), beat: fc.constantFrom(7, undefined) }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('probe' as const), member }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('requests' as const), member }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('count' as const), member, scope }) },
  { weight: 3, arbitrary: fc.record({ type: fc.constant('send' as const), member, digests: fc.array(scope, { minLength: 1, maxLength: 3 }) }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('broadcast' as const), member }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('reply' as const), member, to: member }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('mark' as const), member, digests: fc.array(scope, { minLength: 1, maxLength: 3 }) }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('unmark' as const), member, scope }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('sweep' as const), member }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('watch' as const), member, forgotten: fc.array(member, { maxLength: 2 }) }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('leave' as const), member, buckets }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('expire' as const), member, buckets }) }
)
type Step = typeof step extends fc.Arbitrary<infer S> ? S : never

t.test('each script and its model give the same replies, send the same messages, and leave the same state', redisOptions, async t => {
  const { redis, received } = await redisWithMembers(t)
  const outcomes = new Set<string>()

  await fc.assert(fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 30 }), fc.nat(), async (steps, failover) => {
    await redis.flushall()
    const [seconds, micros] = await redis.time()
    const start = Number(seconds) * 1e6 + Number(micros)
    // Both clocks advance with each step, by different amounts. Times are compared to the nearest 20 s.
    let now = start
    const sent: Message[] = []
    const model = new RedisModel(() => now, (channel, message) => {
      if (channel.endsWith('m3')) return 0
      sent.push([channel, message])
      return 1
    })
    const lastKept = failover % steps.length
    let kept: { readonly now: number, readonly state: object } | undefined
    // The tokens of the claims, in Redis and in the model.
    const tokens = new Map<string, [number, number]>()
    for (const [i, step] of steps.entries()) {
      now += 100
      if (step.type === 'expire') {
        for (const bucket of step.buckets) {
          await redis.del(recordKey(PREFIX, bucket, step.member))
          model.delete(recordKey(PREFIX, bucket, step.member))
        }
      } else {
        const [real, modelled] = [0, 1].map(side => commandOf(step, start, name => tokens.get(name)?.[side])) as [Command<any>, Command<any>]
        const output = await evaluate(redis, real)
        const modelOutput = model.run(modelled.script, modelled.keys, withLongLease(modelled).args)
        deepStrictEqual(comparable(modelOutput, start, step.type), comparable(output, start, step.type), JSON.stringify(step))
        const [reply, modelReply] = [real.parse(output), modelled.parse(modelOutput)]
        if (step.type === 'claim' && reply.outcome === 'newest') tokens.set(claimName(step.member, step.place), [reply.token, modelReply.token])
        for (const outcome of outcomesOf(step, reply)) outcomes.add(outcome)
      }
      if (i === lastKept) kept = { now, state: stateOf(model, now) }
    }
    const sorted = (list: Message[]) => list.map(words => words.join(' ')).sort()
    deepStrictEqual(sorted(sent), sorted(await received()))
    deepStrictEqual(comparableState(model.dump(), start), comparableState(await dumpOf(redis), start))

    model.lose(now - kept!.now)
    deepStrictEqual(stateOf(model, now), kept!.state, 'a failover takes back the steps since the last replication')
  }), { ...seeded(import.meta.url), numRuns: 1_000 })

  t.strictSame([...outcomes].sort(), [
    'ask asked', 'ask dead or gone', 'ask lost', 'ask receivers 0', 'ask receivers 1', 'beat -1', 'beat requests', 'claim late', 'claim newest', 'claim receivers -1', 'claim receivers 0', 'claim receivers 1',
    'broadcast receivers 0', 'broadcast receivers 1', 'claim superseded', 'count', 'evict evicted', 'evict late', 'evict receivers 0', 'evict receivers 1', 'requests evicted', 'requests replaced', 'restate evicted', 'restate replaced', 'send receivers 0', 'send receivers 1',
    'mark true', 'mark false', 'unmark removed', 'unmark stays', 'unmark missing', 'sweep', 'watch'
  ].sort(), 'the runs have shown every outcome')
})

const CLAIMS = 3_000
const WALKS = 7
// Values as long as in production, because Redis stores long values differently from short values.
const [OWNER, EVICTOR] = ['owner', 'evictor'].map(name => name.padEnd(16, '-')) as [string, string]
const DIGEST = 'a'.repeat(40)

t.test('the claims of a large scope are evicted, counted and read in pages, and no page takes longer than 5 ms', redisOptions, async t => {
  const { redis } = await redisWithMembers(t)
  const numbers = Array.from({ length: CLAIMS }, (_, i) => 10_000 + i)
  await Promise.all(numbers.map(number => evaluate(redis, claimCommand(sender(OWNER), place(`${String(number).padStart(22, '0')}:`, number, DIGEST), NOW))))
  await redis.config('SET', 'slowlog-log-slower-than', '0')

  // The slow log measures the time of the day, and a busy machine may stop Redis during any script. So each page is read several times, and the
  // shortest time counts.
  async function walk<Reply extends { readonly cursor: string }> (commandAt: (cursor: string) => Command<Reply>, prepare = async () => {}) {
    const pages = new Map<string, { reply: Reply, micros: number }>()
    for (let i = 0; i < WALKS; i++) {
      await prepare()
      let cursor = '0'
      do {
        const command = commandAt(cursor)
        const reply = command.parse(await evaluate(redis, command))
        const [[, , micros]] = await redis.slowlog('GET', 1) as [[number, number, number]]
        pages.set(cursor, { reply, micros: Math.min(micros, pages.get(cursor)?.micros ?? Infinity) })
        cursor = reply.cursor
      } while (cursor !== '0')
    }
    return { replies: [...pages.values()].map(({ reply }) => reply), slowest: Math.max(...[...pages.values()].map(({ micros }) => micros)) }
  }
  function check (name: string, { replies, slowest }: Awaited<ReturnType<typeof walk>>) {
    t.ok(replies.length > 5, `${name}: ${replies.length} pages`)
    t.ok(slowest < 5_000, `${name}: the slowest page takes ${slowest} microseconds`)
  }
  const unique = (list: number[]) => [...new Set(list)].sort((a, b) => a - b)

  const counted = await walk(cursor => countCommand(sender(EVICTOR), DIGEST, cursor))
  check('COUNT', counted)
  t.equal(new Set(counted.replies.flatMap(({ fields }) => fields)).size, CLAIMS)

  const evicted = await walk(cursor => {
    const { parse, ...command } = evictCommand(sender(EVICTOR), DIGEST, '', cursor, NOW)
    return { ...command, parse: output => parse(output) as Extract<ReturnType<typeof parse>, { outcome: 'evicted' }> }
  }, async () => {
    // Does not count the requests of the last walk: making a request takes longer than finding a request.
    await evaluate(redis, leaveCommand(sender(OWNER), [BUCKET]))
    await evaluate(redis, beatCommand(sender(OWNER), [BUCKET], false))
  })
  check('EVICT', evicted)
  t.strictSame(unique(evicted.replies.flatMap(({ asked }) => asked.map(({ number }) => number))), numbers)

  const requests = await walk(cursor => requestsCommand(sender(OWNER), BUCKET, cursor))
  check('REQUESTS', requests)
  t.strictSame(unique(requests.replies.flatMap(({ requests }) => requests.map(({ number }) => number))), numbers)
})

// Starts a Redis that knows the scripts, and subscribes for all members except the last. `received` returns the messages since the last call.
async function redisWithMembers (t: Test, subscribed: string[] = MEMBERS.slice(0, -1)): Promise<{ redis: Redis, received: () => Promise<Message[]> }> {
  const server = await redisServer(t)
  const redis = server.client()
  const subscriber = server.client()
  let messages: Message[] = []
  subscriber.on('message', (channel, message) => { if (channel !== 'mark') messages.push([channel, message]) })
  await subscriber.subscribe('mark', ...subscribed.map(id => `${PREFIX}member:${id}`))
  for (const { lua } of Object.values(scripts)) await redis.script('LOAD', lua)
  return {
    redis,
    async received () {
      // The mark arrives after all messages that were sent before.
      const marked = new Promise<void>(resolve => subscriber.on('message', function onMessage (channel) {
        if (channel !== 'mark') return
        subscriber.off('message', onMessage)
        resolve()
      }))
      await redis.publish('mark', '')
      await marked
      const list = messages
      messages = []
      return list
    }
  }
}

async function evaluate (redis: Redis, command: Command<unknown>): Promise<unknown> {
  const { script, keys, args } = withLongLease(command)
  return await redis.evalsha(script.sha, keys.length, ...keys, ...args)
}

function withoutTimes (reply: unknown): object | undefined {
  if (reply === undefined) return undefined
  const { now, token, ...rest } = reply as { now?: number, token?: number }
  return rest
}

// On a slow machine a record must not expire by itself: a test says which records expire.
function withLongLease<Reply> (command: Command<Reply>): Command<Reply> {
  return { ...command, args: command.args.map(arg => arg === RECORD_LEASE ? 600_000 : arg) }
}

function claimName (member: string, { digest, field, number }: Place): string {
  return [member, digest, field, number].join(' ')
}

function commandOf (step: Exclude<Step, { type: 'expire' }>, start: number, tokenOf: (name: string) => number | undefined): Command<any> {
  const time = (age: number) => start - age * 1e6
  const made = (timing: 'now' | { age: number, tolerance: number }) => timing === 'now' ? NOW : { at: time(timing.age), tolerance: timing.tolerance < 0 ? -1 : timing.tolerance * 1e6 }
  const from = sender(step.member)
  switch (step.type) {
    case 'claim': return claimCommand(sender(step.member, step.lease), step.place, made(step.timing))
    case 'restate': return restateCommand(from, BUCKET, step.claims.map(({ place, token }) => (
      { ...place, token: token === undefined ? tokenOf(claimName(step.member, place)) ?? start : time(token) }
    )))
    case 'release': return releaseCommand(from, BUCKET, step.places.map(({ place, newest }) => ({ ...place, newest })))
    case 'evict': return evictCommand(from, step.scope, step.fields, '0', made(step.timing))
    case 'ask': return askCommand(from, BUCKET, step.ops, step.mayMiss, step.asked.map(({ place, ...rest }) => ({ ...place, ...rest, receivers: 1 })))
    case 'beat': return beatCommand(from, step.buckets, step.isDeaf, step.beat)
    case 'probe': return probeCommand(from, BUCKET, 9)
    case 'requests': return requestsCommand(from, BUCKET, '0')
    case 'count': return countCommand(from, step.scope, '0')
    case 'send': return sendCommand(from, BUCKET, step.digests.map((digest, i) => ({ digest, text: listText({ sender: step.member, bucket: BUCKET, sequence: i }, 'ann') })))
    case 'broadcast': return sendCommand(from, 0, [{ digest: undefined, text: sendText({ sender: step.member, bucket: 0, sequence: 1 }, { text: 'data: 1\n\n' }) }])
    case 'reply': return replyCommand(from, BUCKET, step.to, [{ sequence: 1, page: 0, pages: 1, body: '1' }])
    case 'mark': return markCommand(from, BUCKET, step.digests.map(digest => ({ digest, scope: `scope ${digest}` })))
    case 'unmark': return unmarkCommand(from, step.scope)
    case 'sweep': return sweepCommand(from, BUCKET, '0')
    case 'watch': return watchCommand(from, step.forgotten)
    case 'leave': return leaveCommand(from, step.buckets)
  }
}

function outcomesOf (step: Step, reply: any): string[] {
  const list = (reply?.predecessors ?? reply?.asked ?? reply?.pending ?? reply?.told ?? []) as Array<{ receivers: number }>
  const outcomes = [reply?.outcome, ...list.map(({ receivers }) => `receivers ${receivers}`)].filter(outcome => outcome !== undefined)
  switch (step.type) {
    case 'ask': if (reply.outcome === 'asked' && list.length < step.asked.length) outcomes.push('dead or gone'); break
    case 'restate': outcomes.push(...reply.ended.map(({ reason }: { reason: string }) => reason)); break
    case 'requests': outcomes.push(...reply.requests.map(({ reason }: { reason: string }) => reason)); break
    case 'beat':
      if (reply.records[0].ops === -1) outcomes.push('-1')
      if (reply.records[0].requests > 0) outcomes.push('requests')
      break
    case 'mark': return reply.map((isNew: boolean) => `mark ${isNew}`)
    case 'unmark': return [`unmark ${reply}`]
    case 'sweep': return reply.scopes.length > 0 ? ['sweep'] : []
    case 'watch': return reply.length > 0 ? ['watch'] : []
    case 'count': if (reply.fields.length > 0) return ['count']
  }
  return outcomes.map(outcome => `${step.type} ${outcome}`)
}

// Replies with times to the nearest 20 s. Sorts the replies whose order depends on HSCAN.
function comparable (output: unknown, start: number, type: Step['type']): unknown {
  if (!Array.isArray(output)) return output
  const words = output.map(word => typeof word === 'string' ? roundTimes(word, start) : word)
  const first = type === 'evict' ? 5 : type === 'requests' || type === 'count' || type === 'sweep' ? 1 : type === 'broadcast' || type === 'watch' ? 0 : words.length
  const size = type === 'count' || type === 'sweep' || type === 'watch' ? 1 : type === 'broadcast' ? 3 : 4
  const groups = Array.from({ length: (words.length - first) / size }, (_, i) => words.slice(first + size * i, first + size * i + size))
  return [...words.slice(0, first), groups.sort((a, b) => a.join() < b.join() ? -1 : 1)]
}

function comparableState (state: ReturnType<RedisModel['dump']>, start: number): object {
  return Object.fromEntries(Object.entries(state).map(([key, { fields, ttl }]) => (
    [key, { ttl: Math.ceil(ttl / 60_000), fields: Object.fromEntries(Object.entries(fields).map(([field, value]) => [field, roundTimes(value, start)])) }]
  )))
}

function roundTimes (text: string, start: number): string {
  return text.replace(/\d{13,}/g, time => `start ${Math.round((Number(time) - start) / 20e6) * 20}`)
}

function stateOf (model: RedisModel, now: number): object {
  return Object.fromEntries(Object.entries(model.dump()).map(([key, { fields, ttl }]) => [key, { fields, expires: ttl + Math.floor(now / 1000) }]))
}

async function dumpOf (redis: Redis): Promise<ReturnType<RedisModel['dump']>> {
  const keys = await redis.keys('*')
  return Object.fromEntries(await Promise.all(keys.map(async key => [key, { fields: await redis.hgetall(key), ttl: await redis.pttl(key) }] as const)))
}
