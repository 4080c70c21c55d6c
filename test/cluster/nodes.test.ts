// A Redis Cluster that loses one of its nodes.
import { setTimeout as pause } from 'node:timers/promises'
import { Cluster } from 'ioredis'
import t from 'tap'
import { redisCluster } from '../../lib/redis/index.ts'
import { buildApp, streamRoute, withSignals } from '../kit/app.ts'
import { connect } from '../kit/client.ts'
import { redisNodes, redisOptions } from '../kit/redis.ts'

// The two nodes that were left answered the probe: Redis was back, and away again, twice a second.
t.test('a node of a Redis Cluster that is gone is one warning, and its return heals what was doubled meanwhile', redisOptions, async t => {
  const nodes = await redisNodes(t, 3)
  const start = async () => {
    const redis = new Cluster([{ host: '127.0.0.1', port: nodes[0]!.port }])
    redis.on('error', () => {})
    t.teardown(() => redis.disconnect())
    const app = await buildApp(t, { cluster: redisCluster({ redis, lease: 2_000 }), replaceTimeout: 1_000 })
    const streams = streamRoute(app)
    await app.listen()
    return {
      streams,
      registry: app.fastify.streamRegistry,
      open: (scope: string) => connect(app.url(withSignals(`/stream/${scope}`, { tabId: 'a' }))),
      said: () => app.log.map(({ msg }) => /^Redis is (away|back)/.exec(msg)?.[1]).filter(word => word !== undefined)
    }
  }
  const [one, two] = [await start(), await start()]
  // Enough for each node to have some.
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
