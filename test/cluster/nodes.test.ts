// A Redis Cluster that loses nodes: each outage is logged once, with the name of the node, and healed afterwards.
import diagnostics from 'node:diagnostics_channel'
import { setTimeout as pause } from 'node:timers/promises'
import { Cluster } from 'ioredis'
import { createCluster } from 'redis'
import t, { type Test } from 'tap'
import { redisCluster, type RedisClient } from '../../lib/redis/index.ts'
import { BUCKETS, SLOTS } from '../../lib/redis/protocol.ts'
import { buildApp, streamRoute, withSignals } from '../kit/app.ts'
import { connect } from '../kit/client.ts'
import { memberProcess } from '../kit/member-process.ts'
import { redisNodes, redisOptions } from '../kit/redis.ts'

// The two nodes that were left answered the probe. So Redis was reported back, and away again, twice a second.
t.test('a lost node of a Redis Cluster causes one warning, and when the node returns, duplicates opened in the meantime are ended', redisOptions, async t => {
  const nodes = await redisNodes(t, 3)
  const start = async () => {
    const redis = new Cluster([{ host: '127.0.0.1', port: nodes[0]!.port }])
    redis.on('error', () => {})
    t.teardown(() => redis.disconnect())
    const app = await buildApp(t, { cluster: redisCluster({ redis }) })
    const streams = streamRoute(app)
    await app.listen()
    return {
      streams,
      registry: app.fastify.streamRegistry,
      open: (scope: string) => connect(app.url(withSignals(`/stream/${scope}`, { tabId: 'a' }))),
      said: () => app.log.map(({ msg }) => /^Redis node \S+ is (away|back)/.exec(msg)?.[1]).filter(word => word !== undefined)
    }
  }
  const [one, two] = [await start(), await start()]
  // So many streams that each node has some of them.
  const scopes = Array.from({ length: 40 }, (_, i) => `scope${i}`)
  for (const scope of scopes) await one.open(scope)
  await nodes[2]!.kill()
  for (const scope of scopes) t.equal((await two.open(scope)).status, 200)
  while (two.said().length === 0) await pause(10)
  // Enough for six probes (fewer on a slow machine). No probe may report that Redis is back.
  await pause(3_000)
  t.strictSame(two.said(), ['away'])
  t.ok(one.registry.size > 0)

  await nodes[2]!.start()
  while (one.registry.size > 0) await pause(10)
  t.equal(two.registry.size, 40)
  t.notOk(two.streams.some(({ signal }) => signal.aborted), 'the newest are left')
  while (two.said().length < 2) await pause(10)
  t.strictSame(two.said(), ['away', 'back'])
})

t.test('the slot of each bucket is the slot that a Redis Cluster computes', redisOptions, async t => {
  const [node] = await redisNodes(t, 1)
  const admin = node!.client()
  const slots = await Promise.all(Array.from({ length: BUCKETS }, (_, bucket) => admin.cluster('KEYSLOT', `octa-star:{${bucket.toString(16)}}:member:a`)))
  t.strictSame(slots.map(Number), SLOTS)
})

const clients: Record<string, (t: Test, port: number) => Promise<RedisClient>> = {
  async ioredis (t, port) {
    const redis = new Cluster([{ host: '127.0.0.1', port }])
    redis.on('error', () => {})
    t.teardown(() => redis.disconnect())
    return redis
  },
  async 'node-redis' (t, port) {
    const redis = createCluster({ rootNodes: [{ socket: { host: '127.0.0.1', port } }] })
    redis.on('error', () => {})
    await redis.connect()
    t.teardown(() => redis.destroy())
    return redis
  }
}

for (const [name, makeClient] of Object.entries(clients)) {
  t.test(`two nodes that stand still, one after the other, are two outages, and each warning names its node (${name})`, redisOptions, async t => {
    const nodes = await redisNodes(t, 3)
    const { registry, said, start } = await memberProcess(t, await makeClient(t, nodes[0]!.port))
    const outages = () => said().map(message => /^Redis (node \S+ )?is (away|back)/.exec(message)?.[0]).filter(words => words !== undefined)
    const events: unknown[] = []
    const onEvent = (event: unknown) => { events.push(event) }
    diagnostics.subscribe('octa-star:cluster', onEvent)
    t.teardown(() => diagnostics.unsubscribe('octa-star:cluster', onEvent))
    // So many streams that each bucket has some of them.
    await Promise.all(Array.from({ length: 200 }, (_, i) => start(`user ${i}`, 'a')))
    const expected: object[] = []
    for (const [signal, state] of [['SIGSTOP', 'away'], ['SIGCONT', 'back']] as const) {
      for (const { signal: send, port } of nodes.slice(1)) {
        expected.push({ state, node: `127.0.0.1:${port}` })
        send(signal)
        while (outages().length < expected.length) await pause(10)
        // Enough for two probes of each bucket.
        await pause(1_100)
        t.strictSame(events, expected)
      }
    }
    t.strictSame(outages(), (expected as Array<{ state: string, node: string }>).map(({ state, node }) => `Redis node ${node} is ${state}`))
    t.equal(registry.size, 200)
  })
}
