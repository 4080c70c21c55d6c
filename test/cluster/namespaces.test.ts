// Two contexts that share a cluster adapter have separate registries, as without an adapter.
import Fastify from 'fastify'
import t from 'tap'
import octaStarStreams, { type ClusterAdapter, type StreamRegistry } from '../../lib/index.ts'
import { redisCluster } from '../../lib/redis/index.ts'
import { withSignals } from '../kit/app.ts'
import { connect } from '../kit/client.ts'
import { memoryCluster, MemoryStore } from '../kit/memory-cluster.ts'
import { redisOptions, redisServer } from '../kit/redis.ts'

t.test('two contexts of a process that share one adapter stay apart, and each shares its streams with the same context in another process', redisOptions, async t => {
  const server = await redisServer(t)
  async function startProcess () {
    const cluster = redisCluster({ redis: server.client() })
    const fastify = Fastify({ forceCloseConnections: true })
    const registries: Record<string, StreamRegistry> = {}
    for (const name of ['shop', 'admin']) {
      await fastify.register(async child => {
        await child.register(octaStarStreams, { cluster })
        registries[name] = child.streamRegistry
        child.get(`/${name}`, { sse: 'only' }, async (_request, reply) => { (await reply.startStream('ann')).keepAlive() })
      })
    }
    await fastify.listen({ port: 0, host: '127.0.0.1' })
    t.teardown(() => fastify.close())
    return { registries, open: (name: string) => connect(fastify.listeningOrigin + withSignals(`/${name}`, { tabId: 'a' })) }
  }
  const [one, two] = [await startProcess(), await startProcess()]
  const shop = await one.open('shop')
  const admin = await one.open('admin')
  t.strictSame([one.registries.shop!.size, one.registries.admin!.size], [1, 1], 'the stream of a context leaves the other context alone')
  t.strictSame([await one.registries.shop!.count('ann'), await one.registries.admin!.count('ann')], [1, 1])
  t.equal(await one.registries.admin!.evict('ann'), 1)
  t.equal(await admin.ended, 'clean')
  t.equal(one.registries.shop!.size, 1)
  await two.open('shop')
  t.equal(await shop.ended, 'clean')
  t.match(shop.events, [{ data: 'replaced' }])
})

t.test('a registration that failed to join the cluster leaves the namespace to the next attempt', async t => {
  const { join } = memoryCluster(new MemoryStore())
  const namespaces: Array<string | undefined> = []
  const cluster: ClusterAdapter = {
    async join (context) {
      namespaces.push(context.namespace)
      if (namespaces.length <= 2) throw new Error('the store is away')
      return await join(context)
    }
  }
  for (let attempt = 1; attempt <= 2; attempt++) await t.rejects(async () => await Fastify().register(octaStarStreams, { cluster }), { message: 'the store is away' })
  const fastify = Fastify()
  t.teardown(() => fastify.close())
  await fastify.register(octaStarStreams, { cluster })
  t.strictSame(namespaces, [undefined, undefined, undefined])
})
