// A failover by Sentinel, cut subscriptions and forgotten scripts, as operators cause them. Each tab keeps its newest stream, and evictions reach all streams.
import { setTimeout as pause } from 'node:timers/promises'
import { Redis } from 'ioredis'
import t from 'tap'
import { memberProcess } from '../kit/member-process.ts'
import { redisOptions, redisReplica, redisSentinel, redisServer } from '../kit/redis.ts'
import { redisProxy } from '../kit/redis-proxy.ts'

const TABS = Array.from({ length: 30 }, (_, i) => `user ${i}`)

// Stops only a test that hangs.
t.setTimeout(300_000)

t.test('after a failover by Sentinel each tab has only its newest stream, away and back are said once, and an eviction reaches all streams', redisOptions, async t => {
  const { port, master, replicas: [replica] } = await redisSentinel(t, 1)
  const replicaAdmin = replica!.client()
  const client = () => {
    const redis = new Redis({ sentinels: [{ host: '127.0.0.1', port }], name: 'mymaster' })
    redis.on('error', () => {})
    t.teardown(() => redis.disconnect())
    return redis
  }
  const [one, two] = [await memberProcess(t, client(), { replaceTimeout: 1_000 }), await memberProcess(t, client(), { replaceTimeout: 1_000 })]
  const old = await Promise.all(TABS.map(async scope => (await one.start(scope, 'a')).holder))
  await master.kill()
  const newest = await Promise.all(TABS.map(async scope => (await two.start(scope, 'a')).holder))
  while (old.some(({ isLive }) => isLive)) await pause(10)
  t.ok(newest.every(({ isLive }) => isLive), 'the newest are left')
  t.ok((await replicaAdmin.info('replication')).includes('role:master'), 'the replica has taken over')
  for (const { said } of [one, two]) {
    while (outagesIn(said()).length % 2 === 1) await pause(10)
    t.ok(outagesIn(said()).length <= 2, `${outagesIn(said())}`)
  }
  for (const scope of TABS) t.equal(await one.registry.evict(scope), 1)
  t.ok(newest.every(({ reason }) => reason === 'evicted'))
})

// As with a managed Redis, whose address moves to the promoted replica. A client that reconnects on READONLY moves its commands alone.
t.test('after a failover that leaves the connections to the former master open, subscriptions move to the new master', redisOptions, async t => {
  const master = await redisServer(t)
  const replica = await redisReplica(t, master)
  const [masterAdmin, replicaAdmin] = [master.client(), replica.client()]
  const address = await redisProxy(t, master.port)
  const client = () => master.client({ port: address.port, reconnectOnError: ({ message }) => message.includes('READONLY') ? 2 : false })
  const [one, two] = [await memberProcess(t, client()), await memberProcess(t, client())]
  const subscriptions = async (server: Redis) => (await server.call('PUBSUB', 'CHANNELS', 'octa-star:*') as string[]).length
  while (await subscriptions(masterAdmin) < 2) await pause(10)
  const { holder: old } = await one.start('ann', 'a')
  while (!(await masterAdmin.info('replication')).includes('state=online')) await pause(10)
  address.to = replica.port
  await masterAdmin.call('FAILOVER', 'TO', '127.0.0.1', replica.port)
  while (await subscriptions(replicaAdmin) < 2) await pause(10)
  const { holder: newest } = await two.start('ann', 'a')
  t.equal(old.reason, 'replaced')
  t.equal(await one.registry.evict('ann'), 1)
  t.equal(newest.reason, 'evicted')
})

t.test('subscriptions that are cut again and again, and scripts that are forgotten, cost no stream and no warning', redisOptions, async t => {
  const server = await redisServer(t)
  const admin = server.client()
  const [one, two] = [await memberProcess(t, server.client()), await memberProcess(t, server.client())]
  const quiet = await one.start('quiet', 'a')
  let previous = await one.start('ann', 'a')
  for (let i = 0; i < 20; i++) {
    await admin.call('CLIENT', 'KILL', 'TYPE', 'pubsub')
    if (i % 3 === 0) await admin.script('FLUSH')
    const next = await (i % 2 === 0 ? two : one).start('ann', 'a')
    t.equal(previous.holder.reason, 'replaced', 'one at a time')
    previous = next
  }
  t.ok(quiet.holder.isLive)
  t.strictSame([...one.said(), ...two.said()].filter(message => !message.includes('use the same tab id')), [])
})

function outagesIn (messages: string[]): string[] {
  return messages.map(message => /^Redis is (away|back)/.exec(message)?.[1]).filter(word => word !== undefined)
}
