// A Redis that answers, but refuses writes or subscriptions. This is logged once, two streams of a key never run at once within the limits of Redis, and all heals.
import diagnostics from 'node:diagnostics_channel'
import { readFile } from 'node:fs/promises'
import { setTimeout as pause } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { MIN_LEASE } from '../../lib/redis/protocol.ts'
import { streamKey } from '../../lib/registry/stream-key.ts'
import { memberProcess } from '../kit/member-process.ts'
import { PlainHolder } from '../kit/plain-holder.ts'
import { redisOptions, redisServer, temporaryDirectory, type RedisServer } from '../kit/redis.ts'

// The permissions that docs/redis.md lists.
const rule = /^ACL SETUSER octa-star on >secret (.+)$/m.exec(await readFile('docs/redis.md', 'utf8'))![1]!.split(' ')
const [KEYS, CHANNELS, ...RIGHTS] = rule as [string, string, ...string[]]

// Stops only a test that hangs.
t.setTimeout(300_000)

/** Makes Redis refuse writes, and returns how to end the refusal. */
const refusals: Record<string, { refuse: (admin: Redis, t: Test) => Promise<unknown>, accept: (admin: Redis) => Promise<unknown>, words: RegExp }> = {
  READONLY: {
    async refuse (admin, t) {
      const master = await redisServer(t, ['--dir', temporaryDirectory(t)])
      await admin.replicaof('127.0.0.1', master.port)
    },
    accept: admin => admin.replicaof('NO', 'ONE'),
    words: /READONLY/
  },
  OOM: {
    refuse: admin => admin.config('SET', 'maxmemory', '1'),
    accept: admin => admin.config('SET', 'maxmemory', '0'),
    words: /OOM/
  },
  NOREPLICAS: {
    refuse: admin => admin.config('SET', 'min-replicas-to-write', '1'),
    accept: admin => admin.config('SET', 'min-replicas-to-write', '0'),
    words: /NOREPLICAS/
  },
  MISCONF: {
    async refuse (admin) {
      await admin.config('SET', 'dir', '/proc/self')
      await admin.config('SET', 'save', '3600 1')
      await admin.bgsave()
      while (!(await admin.info('persistence')).includes('rdb_last_bgsave_status:err')) await pause(10)
    },
    accept: admin => admin.config('SET', 'stop-writes-on-bgsave-error', 'no'),
    words: /MISCONF/
  },
  'no right to publish': {
    refuse: admin => admin.acl('SETUSER', 'app', '-publish'),
    accept: admin => admin.acl('SETUSER', 'app', '+publish'),
    words: /NOPERM|can't run this command/
  },
  'no right to write': {
    refuse: admin => admin.acl('SETUSER', 'app', '-hset'),
    accept: admin => admin.acl('SETUSER', 'app', '+hset'),
    words: /NOPERM|can't run this command/
  }
}

for (const [name, { refuse, accept, words }] of Object.entries(refusals)) {
  t.test(`Redis answers but refuses writes (${name}): away and back are said once, and back only after a write has succeeded`, redisOptions, async t => {
    const states: string[] = []
    const onState = (event: unknown) => { states.push((event as { state: string }).state) }
    diagnostics.subscribe('octa-star:cluster', onState)
    t.teardown(() => diagnostics.unsubscribe('octa-star:cluster', onState))
    const { server, admin, client } = await withUser(t)
    const [one, two] = [await memberProcess(t, client(), { replaceTimeout: 1_000 }), await memberProcess(t, client(), { replaceTimeout: 1_000 })]
    const old = await one.start('ann', 'a')
    await refuse(admin, t)
    const newest = await two.start('ann', 'a')
    t.ok(newest.holder.isLive, 'the stream starts')
    await t.rejects(two.registry.evict('bob'), { code: 'FST_ERR_OCTA_STAR_EVICT' })
    // Enough for four probes. No probe may report that Redis is back.
    await pause(2_200)
    t.strictSame(outagesIn(two.said()), ['away'])
    t.ok(states.length >= 1 && states.every(state => state === 'away'), `${states}`)
    const problem = two.errors().find(message => words.test(message))
    t.ok(problem !== undefined, `the warning has Redis's own words: ${two.errors()}`)
    await accept(admin)
    while (old.holder.isLive) await pause(10)
    while (outagesIn(one.said()).length % 2 === 1 || outagesIn(two.said()).length < 2) await pause(10)
    t.ok(newest.holder.isLive, 'the newest is left')
    t.strictSame(outagesIn(two.said()), ['away', 'back'])
    t.ok(outagesIn(one.said()).length <= 2)
    t.equal(states.filter(state => state === 'away').length, states.filter(state => state === 'back').length)
    t.equal(await two.registry.count('ann'), 1)
    t.ok(server.port > 0)
  })
}

for (const right of ['channels', 'subscribe']) {
  t.test(`a process that may not subscribe (${right}) says so once, never lets two handlers of one tab run at once, and hears again when it may subscribe`, redisOptions, async t => {
    const { admin, client } = await withUser(t)
    const [refuse, accept] = right === 'channels' ? ['resetchannels', CHANNELS] : ['-subscribe', '+subscribe']
    await admin.acl('SETUSER', 'deaf', 'on', '>secret', KEYS, CHANNELS, ...RIGHTS)
    await admin.acl('SETUSER', 'deaf', refuse)
    const hearing = await memberProcess(t, client(), { replaceTimeout: 10_000 })
    const deaf = await memberProcess(t, client('deaf'), { replaceTimeout: 10_000 })
    let previous = await deaf.start('ann', 'a')
    // A user without channels can run no script that publishes, so for that process Redis is away too.
    const mayWrite = right === 'subscribe'
    let slowest = 0
    for (const process of [hearing, deaf, hearing, deaf, hearing, deaf]) {
      const next = await process.start('ann', 'a')
      if (mayWrite) t.equal(previous.holder.isLive, false, 'two streams of the tab never ran at once')
      slowest = Math.max(slowest, next.waited)
      previous = next
    }
    t.comment(`the slowest replacement took ${Math.round(slowest)} ms`)
    if (mayWrite) t.ok(slowest < 5_000, 'the state was polled')
    // Long enough for several attempts to subscribe.
    await pause(3_000)
    const times = (beginning: string) => deaf.said().filter(message => message.startsWith(beginning)).length
    t.equal(times('Redis is away'), mayWrite ? 0 : 1)
    t.ok(times('this process receives no messages') <= 1, 'said once')
    t.ok(deaf.said().length >= 1)
    t.ok(deaf.errors().some(message => mayWrite ? message.includes('NOPERM') : message.includes('channel')), `with Redis's own words: ${deaf.errors()}`)
    await admin.acl('SETUSER', 'deaf', accept)
    const healed = mayWrite ? 'this process receives messages from Redis again' : 'Redis is back'
    while (!deaf.said().some(message => message.startsWith(healed))) await pause(10)
    const a = await deaf.start('bob', 'a')
    const b = await hearing.start('bob', 'a')
    t.equal(a.holder.isLive, false)
    t.ok(b.waited < 1_000, `${Math.round(b.waited)} ms`)
  })
}

// A process needs these rights to connect, to subscribe, to send a script that Redis does not know, or to leave.
const SELDOM_USED = ['+@connection', '+info', '+eval', '+subscribe', '+del']

// If BEAT did not need the missing permission, Redis was reported away, back and away, twice a second.
t.test('each documented right, taken away and given back: away and back are said at most once, and back only after the right is back', redisOptions, async t => {
  // Redis notes each refusal in a log.
  const server = await redisServer(t, ['--acllog-max-len', '1000'])
  const admin = server.client()
  const withoutRight = [
    ...RIGHTS.map(right => ({ right, refuse: right.replace('+', '-'), accept: right })),
    { right: KEYS, refuse: 'resetkeys', accept: KEYS },
    { right: CHANNELS, refuse: 'resetchannels', accept: CHANNELS }
  ]
  const refusals = async (username: string) => {
    const log = await admin.acl('LOG', 1_000) as string[][]
    return log.filter(words => words[words.indexOf('username') + 1] === username).reduce((sum, words) => sum + Number(words[words.indexOf('count') + 1]), 0)
  }
  // All permissions are tested at the same time, with different users and scopes.
  await Promise.all(withoutRight.map(async ({ right, refuse, accept }) => {
    const user = `without ${right}`.replaceAll(' ', '-')
    const change = (...rules: string[]) => admin.acl('SETUSER', user, ...rules)
    await change('on', '>secret', KEYS, CHANNELS, ...RIGHTS)
    const client = () => server.client({ username: user, password: 'secret' })
    const [one, two] = [await memberProcess(t, client(), { lease: MIN_LEASE, replaceTimeout: 1_000 }), await memberProcess(t, client(), { lease: MIN_LEASE, replaceTimeout: 1_000 })]
    const outages = () => [one, two].map(({ said }) => outagesIn(said()))
    await one.start(user, 'a')
    const [slow, next] = [new PlainHolder(), new PlainHolder()]
    await one.registry.replaceAndRegister(streamKey(user, 'slow'), slow)
    await change(refuse)
    // Uses all scripts, and waits for a stream that is slow to end.
    await Promise.allSettled([
      two.start(user, 'a'), two.registry.replaceAndRegister(streamKey(user, 'slow'), next), one.registry.count(user), two.registry.evict('nobody')
    ])
    if (!SELDOM_USED.includes(right)) {
      while (outages().flat().length === 0) await pause(10)
      // Until both processes have probed.
      const before = await refusals(user)
      while (await refusals(user) < before + 4 && outages().every(words => words.length < 2)) await pause(50)
    }
    t.ok(outages().every(words => words.join() === 'away' || words.length === 0), `without ${right}: ${outages().join(' and ')}`)
    await change(accept)
    for (const holder of [slow, next]) holder.leave()
    while (outages().some(words => words.length % 2 === 1)) await pause(10)
    const old = await one.start(user, 'b')
    await two.start(user, 'b')
    t.notOk(old.holder.isLive)
    t.ok(outages().every(words => words.length <= 2), `${right} is back: ${outages().join(' and ')}`)
  }))
})

t.test('a user with exactly the documented rights can do everything', redisOptions, async t => {
  const { admin, client } = await withUser(t)
  const [one, two] = [await memberProcess(t, client(), { lease: MIN_LEASE }), await memberProcess(t, client(), { lease: MIN_LEASE })]
  const old = await one.start('ann', 'a')
  await two.start('ann', 'a')
  t.equal(old.holder.reason, 'replaced')
  t.equal(await one.registry.count('ann'), 1)
  // Until the scope is restated, which renews its key.
  const key = (await admin.keys('*')).find(name => !name.includes(':member'))!
  for (let left = await admin.pttl(key), last = left; left <= last; left = await admin.pttl(key)) {
    last = left
    await pause(20)
  }
  await admin.script('FLUSH')
  await admin.call('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await one.start('ann', 'a')
  await two.start('ann', 'b')
  t.equal(await one.registry.evict('ann'), 2)
  await Promise.all([one.leave(), two.leave()])
  t.strictSame([...one.said(), ...two.said()], [])
  const keys = await admin.keys('*')
  t.strictSame(keys.filter(key => !key.endsWith(':evicted')), [])
})

/** A Redis with the user `app`, who has the documented rights. */
async function withUser (t: Test): Promise<{ server: RedisServer, admin: Redis, client: (username?: string) => Redis }> {
  // A way to make Redis fail to save: https://redis.io/docs/latest/operate/oss_and_stack/management/config-file/
  const server = await redisServer(t, ['--enable-protected-configs', 'yes', '--dir', temporaryDirectory(t)])
  const admin = server.client()
  await admin.acl('SETUSER', 'app', 'on', '>secret', KEYS, CHANNELS, ...RIGHTS)
  return { server, admin, client: (username = 'app') => server.client({ username, password: 'secret' }) }
}

function outagesIn (messages: string[]): string[] {
  return messages.map(message => /^Redis is (away|back)/.exec(message)?.[1]).filter(word => word !== undefined)
}
