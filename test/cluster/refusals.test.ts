// A Redis that answers, but refuses writes or subscriptions: said once, never two streams at once within what Redis takes, and healed afterwards.
import diagnostics from 'node:diagnostics_channel'
import { readFile } from 'node:fs/promises'
import { setTimeout as pause } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { memberProcess } from '../kit/member-process.ts'
import { redisOptions, redisServer, temporaryDirectory, type RedisServer } from '../kit/redis.ts'

// The rights that docs/redis.md gives.
const rule = /^ACL SETUSER octa-star on >secret (.+)$/m.exec(await readFile('docs/redis.md', 'utf8'))![1]!.split(' ')
const [KEYS, CHANNELS, ...RIGHTS] = rule as [string, string, ...string[]]

// Stops only a test that hangs.
t.setTimeout(300_000)

/** How Redis comes to refuse writes, and how to end that. */
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
  t.test(`Redis answers and refuses (${name}): away and back are said once, and back only after a write has succeeded`, redisOptions, async t => {
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
  t.test(`a process that may not subscribe (${right}) says so once, never has two handlers of one tab at once, and hears again when it may`, redisOptions, async t => {
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
      if (mayWrite) t.equal(previous.holder.isLive, false, 'one at a time')
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
    const healed = mayWrite ? 'this process receives messages of Redis again' : 'Redis is back'
    while (!deaf.said().some(message => message.startsWith(healed))) await pause(10)
    const a = await deaf.start('bob', 'a')
    const b = await hearing.start('bob', 'a')
    t.equal(a.holder.isLive, false)
    t.ok(b.waited < 1_000, `${Math.round(b.waited)} ms`)
  })
}

t.test('a user with exactly the documented rights can do everything', redisOptions, async t => {
  const { admin, client } = await withUser(t)
  const [one, two] = [await memberProcess(t, client(), { lease: 1_000 }), await memberProcess(t, client(), { lease: 1_000 })]
  const old = await one.start('ann', 'a')
  await two.start('ann', 'a')
  t.equal(old.holder.reason, 'replaced')
  t.equal(await one.registry.count('ann'), 1)
  // Long enough for the scopes to be restated.
  await pause(1_000)
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
  // A test makes Redis fail to save: https://redis.io/docs/latest/operate/oss_and_stack/management/config-file/
  const server = await redisServer(t, ['--enable-protected-configs', 'yes', '--dir', temporaryDirectory(t)])
  const admin = server.client()
  await admin.acl('SETUSER', 'app', 'on', '>secret', KEYS, CHANNELS, ...RIGHTS)
  return { server, admin, client: (username = 'app') => server.client({ username, password: 'secret' }) }
}

function outagesIn (messages: string[]): string[] {
  return messages.map(message => /^Redis is (away|back)/.exec(message)?.[1]).filter(word => word !== undefined)
}
