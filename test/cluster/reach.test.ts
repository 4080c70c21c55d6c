// Messages between processes through a real Redis, single and a Redis Cluster: the receivers, the order, and how long a sender waits.
import { setTimeout as pause } from 'node:timers/promises'
import { Cluster as RedisNodes, type Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { redisCluster } from '../../lib/redis/index.ts'
import { bucketOf, digestOf } from '../../lib/redis/protocol.ts'
import { streamKey } from '../../lib/registry/stream-key.ts'
import { clusterContext } from '../kit/cluster-context.ts'
import { monitorCommands } from '../kit/monitor.ts'
import { redisProxy } from '../kit/redis-proxy.ts'
import { redisNodes, redisOptions, redisServer, type RedisServer } from '../kit/redis.ts'
import type { Cluster, ClusterClaim, ClusterMessage, StreamInfo } from '../../types/index.ts'

const MESSAGES = 10_000
const MIB = 1_048_576

// Stops only a test that hangs.
t.setTimeout(300_000)

/** Stands in for a process of an application. A stream is open as soon as its key is claimed. */
interface Process {
  readonly cluster: Cluster & { readonly channel: string }
  /** The messages of other processes, in the order of arrival. */
  readonly delivered: ClusterMessage[]
  /** Opens a stream. */
  readonly open: (scope: string, tab?: string) => Promise<ClusterClaim>
  readonly close: (claim: ClusterClaim) => void
  readonly streamsIn: (scope: string) => StreamInfo[]
}

interface Site {
  readonly servers: RedisServer[]
  readonly client: () => Redis | RedisNodes
  readonly join: (options?: { readonly redis?: Redis | RedisNodes, readonly replaceTimeout?: number }) => Promise<Process>
}

function siteOn (t: Test, servers: RedisServer[]): Site {
  const client = () => {
    if (servers.length === 1) return servers[0]!.client()
    const redis = new RedisNodes(servers.map(({ port }) => ({ host: '127.0.0.1', port })))
    redis.on('error', () => {})
    t.teardown(() => redis.disconnect())
    return redis
  }
  return {
    servers,
    client,
    async join ({ redis = client(), replaceTimeout = 60_000 } = {}) {
      const delivered: ClusterMessage[] = []
      const streams = new Map<ClusterClaim, StreamInfo>()
      const streamsIn = (scope: string | undefined) => [...streams].filter(([claim]) => scope === undefined || claim.key.scope === scope).map(([, info]) => info)
      const cluster = await redisCluster({ redis }).join({
        ...clusterContext({ replaceTimeout }),
        deliver (message) {
          delivered.push(message)
          return streamsIn(message.scope).length
        },
        list: streamsIn
      }) as Process['cluster']
      t.teardown(() => cluster.leave())
      const close = (claim: ClusterClaim) => {
        streams.delete(claim)
        cluster.release(claim)
      }
      return {
        cluster,
        delivered,
        close,
        streamsIn,
        async open (scope, tab = 'a') {
          const key = streamKey(scope, tab)
          const claim: ClusterClaim = { key, released: Promise.resolve(), end () { close(claim) } }
          streams.set(claim, { id: `${scope} ${tab}`, tabId: tab, name: undefined, openedAt: 1 })
          await cluster.claim(claim)
          return claim
        }
      }
    }
  }
}

const scopeOf = (scope: string) => streamKey(scope).scope
const eventTo = (scope: string, data: unknown = 1): ClusterMessage => ({ scope: scopeOf(scope), text: `data: ${data}\n\n` })
const dataOf = ({ text }: ClusterMessage) => text.slice('data: '.length, -2)

/** Sends a message for each sender, in parallel, and resolves to the numbers of streams that took the messages. */
async function sendAll ({ cluster }: Process, messages: ClusterMessage[]): Promise<number[]> {
  return await Promise.all(messages.map(message => cluster.send(message)))
}

for (const [name, start] of [
  ['a single Redis', async (t: Test) => siteOn(t, [await redisServer(t)])],
  ['a Redis Cluster', async (t: Test) => siteOn(t, await redisNodes(t, 3))]
] as const) {
  t.test(`on ${name}`, redisOptions, async t => {
    t.test('a message reaches exactly the processes that hold the scope', async t => {
      const site = await start(t)
      const [sender, one, two, former, idle] = await Promise.all(Array.from({ length: 5 }, () => site.join())) as [Process, Process, Process, Process, Process]
      const scopes = Array.from({ length: 40 }, (_, i) => `scope ${i}`)
      for (const scope of scopes) {
        // The cluster does not deliver to the sender's own streams.
        await sender.open(scope)
        await one.open(scope, 'b')
        former.close(await former.open(scope, 'c'))
      }
      for (const scope of scopes.slice(0, 10)) {
        await two.open(scope, 'd')
        await two.open(scope, 'e')
      }
      await idle.open('another scope')
      const published = await Promise.all(site.servers.map(({ port }) => monitorCommands(t, port)))
      // When a later command is over, so is a release that was under way.
      for (const scope of scopes) await former.cluster.count(scopeOf(scope))
      for (const list of published) list.length = 0

      t.strictSame(await sendAll(sender, scopes.map(scope => eventTo(scope))), scopes.map((_, i) => i < 10 ? 3 : 1))
      t.equal(await sender.cluster.send(eventTo('nobody')), 0)
      const scopesOf = ({ delivered }: Process) => delivered.map(({ scope }) => scope).sort()
      t.strictSame([sender, one, two, former, idle].map(scopesOf), [[], scopes, scopes.slice(0, 10), [], []].map(list => list.map(scopeOf).sort()))
      // The last command that MONITOR shows may still be under way.
      const messages = () => published.flat().filter(([command]) => command!.toLowerCase() === 'publish').map(([, channel, message]) => ({ channel: channel!, message: message! }))
      const sent = () => messages().filter(({ message }) => message.startsWith('send '))
      while (sent().length < 50) await pause(1)
      t.equal(sent().length, 50)
      t.strictSame(messages().filter(({ channel, message }) => [idle, former].some(({ cluster }) => cluster.channel === channel) && !message.startsWith('beat ')), [], 'a process that does not hold the scope hears nothing')
      // The first process has closed its stream, and another process has opened a stream since.
      two.close(await two.open('scope 39', 'f'))
      await idle.open('scope 39', 'g')
      await two.cluster.count(scopeOf('scope 39'))
      t.equal(await sender.cluster.send(eventTo('scope 39')), 2)
      t.equal(two.delivered.length, 10)
    })

    t.test(`${MESSAGES} messages arrive in order, although Redis forgets the scripts in between`, async t => {
      const site = await start(t)
      const [sender, one, two] = await Promise.all(Array.from({ length: 3 }, () => site.join())) as [Process, Process, Process]
      await one.open('ann')
      await two.open('ann', 'b')
      await two.open('bob')
      const admins = site.servers.map(server => server.client())
      const results: Array<Promise<number>> = []
      let flushes = 0
      for (let i = 0; i < MESSAGES; i++) {
        results.push(sender.cluster.send(eventTo('ann', i)))
        if (i % 10 === 0) sender.cluster.send(eventTo('bob', i))
        if (i % 97 !== 0) continue
        for (const admin of admins) admin.script('FLUSH')
        flushes++
        await new Promise(setImmediate)
      }
      const taken = await Promise.all(results)
      t.ok(flushes > 100)
      t.equal(taken.filter(count => count === 2).length, MESSAGES)
      const to = ({ delivered }: Process, scope: string) => delivered.filter(message => message.scope === scopeOf(scope)).map(dataOf)
      const all = Array.from({ length: MESSAGES }, (_, i) => String(i))
      t.strictSame(to(one, 'ann'), all)
      t.strictSame(to(two, 'ann'), all)
      t.strictSame(to(two, 'bob'), all.filter((_, i) => i % 10 === 0))
    })

    t.test('a broadcast reaches all processes, including processes without streams, and no process that has left', async t => {
      const site = await start(t)
      const processes = await Promise.all(Array.from({ length: 5 }, () => site.join()))
      const [sender, one, , , left] = processes as [Process, Process, Process, Process, Process]
      await one.open('ann')
      await one.open('bob')
      t.equal(await sender.cluster.send({ text: 'data: 1\n\n' }), 2)
      await left.cluster.leave()
      t.equal(await sender.cluster.send({ text: 'data: 2\n\n' }), 2)
      t.strictSame(processes.map(({ delivered }) => delivered.map(dataOf)), [[], ['1', '2'], ['1', '2'], ['1', '2'], ['1']])
      t.ok(one.delivered.every(({ scope }) => scope === undefined))
    })

    t.test('a list names 2,500 streams in three processes', async t => {
      const site = await start(t)
      const [asker, ...holders] = await Promise.all(Array.from({ length: 4 }, () => site.join())) as [Process, ...Process[]]
      await asker.open('ann', 'own')
      for (const [i, holder] of holders.entries()) {
        await Promise.all(Array.from({ length: [2_100, 399, 1][i]! }, (_, n) => holder.open('ann', `${i} ${n}`)))
        await holder.open('bob')
      }
      const list = await asker.cluster.list(scopeOf('ann'))
      const expected = holders.flatMap(holder => holder.streamsIn(scopeOf('ann')))
      const ids = (infos: StreamInfo[]) => infos.map(({ id, tabId, openedAt }) => `${id} ${tabId} ${openedAt}`).sort()
      t.equal(list.length, 2_500)
      t.strictSame(ids(list), ids(expected))
      t.strictSame(await asker.cluster.list(scopeOf('nobody')), [])
    })

    t.test('messages of 1 MiB arrive as sent', async t => {
      const site = await start(t)
      const [sender, one] = await Promise.all([site.join(), site.join()])
      await one.open('ann')
      // Each of these characters takes two bytes in UTF-8.
      const texts = Array.from({ length: 20 }, (_, i) => `data: ${i} é\u2028${'é '.repeat((MIB - 100) / 3)}\n\n`)
      t.strictSame(await sendAll(sender, texts.map(text => ({ scope: scopeOf('ann'), text, tabId: 'a', name: 'é b', except: '\n"', retry: 7 }))), texts.map(() => 1))
      t.ok(one.delivered.every(({ text }, i) => text === texts[i]))
      const { text, ...rest } = one.delivered[19]!
      t.strictSame(rest, { scope: scopeOf('ann'), tabId: 'a', name: 'é b', except: '\n"', retry: 7 })
    })

    t.test('claims that come and go leave no key in Redis', async t => {
      const site = await start(t)
      const [one, two] = await Promise.all([site.join(), site.join()])
      for (let i = 0; i < 20; i++) {
        const claims = await Promise.all([...'abc'].map(tab => one.open(`scope ${i}`, tab)))
        // Replaces a stream in another process.
        const other = await two.open(`scope ${i}`, 'a')
        for (const claim of claims.reverse()) one.close(claim)
        two.close(other)
      }
      await one.cluster.leave()
      await two.cluster.leave()
      const keys = await Promise.all(site.servers.map(server => server.client().keys('*')))
      t.strictSame(keys.flat(), [])
    })
  })
}

t.test('a process that stands still delays a message by half of replaceTimeout at most, and delays no other process', redisOptions, async t => {
  const server = await redisServer(t)
  const site = siteOn(t, [server])
  const proxy = await redisProxy(t, server.port)
  const replaceTimeout = 1_000
  const sender = await site.join({ replaceTimeout })
  const healthy = await site.join()
  const stopped = await site.join({ redis: server.client({ port: proxy.port }) })
  await healthy.open('ann')
  await healthy.open('bob')
  await stopped.open('ann', 'b')
  proxy.freeze()
  const begun = performance.now()
  const slow = sender.cluster.send(eventTo('ann', 'slow')).then(count => ({ count, waited: performance.now() - begun }))
  // Another scope, in any bucket, and the same scope.
  t.equal(await sender.cluster.send(eventTo('bob')), 1)
  const quick = performance.now() - begun
  const next = sender.cluster.send(eventTo('ann', 'next'))
  const { count, waited } = await slow
  t.ok(quick < waited, `${quick} ms`)
  t.equal(count, 1)
  t.ok(waited >= replaceTimeout / 2 - 1, `${waited} ms`)
  t.equal(await next, 1)
  t.strictSame(healthy.delivered.filter(({ scope }) => scope === scopeOf('ann')).map(dataOf), ['slow', 'next'], 'the next message has not waited for the reply to the first')
  proxy.thaw()
  while (stopped.delivered.length < 2) await pause(1)
  t.strictSame(stopped.delivered.map(dataOf), ['slow', 'next'])
})

t.test('in a Redis Cluster a killed process delays a message by half of replaceTimeout at most, and not at all after its record has expired', redisOptions, async t => {
  const site = siteOn(t, await redisNodes(t, 3))
  const sender = await site.join({ replaceTimeout: 1_000 })
  const healthy = await site.join()
  const redis = site.client() as RedisNodes
  const killed = await site.join({ redis })
  await healthy.open('ann')
  await killed.open('ann', 'b')
  // The commands end, so the record expires. The subscription is another connection, whose messages are not answered.
  redis.disconnect()
  t.equal(await sender.cluster.send(eventTo('ann')), 1)
  t.equal(await sender.cluster.send({ text: 'data: 1\n\n' }), 1)
  t.equal(await sender.cluster.list(scopeOf('ann')).then(list => list.length), 1)
  const bucket = bucketOf(digestOf(scopeOf('ann'))).toString(16)
  const records = [`octa-star:{${bucket}}`, 'octa-star:{0}'].map(base => `${base}:member:${killed.cluster.channel.slice('octa-star:member:'.length)}`)
  const admin = site.client()
  for (const record of records) while (await admin.exists(record) === 1) await pause(50)
  const before = killed.delivered.length
  t.equal(await sender.cluster.send(eventTo('ann')), 1)
  t.equal(await sender.cluster.send({ text: 'data: 1\n\n' }), 1)
  t.equal(killed.delivered.length, before, 'a dead process is not told, so the sender does not wait for a reply')
  t.equal(await admin.hlen('octa-star:{0}:members'), 2)
})

t.test('after Redis has restarted empty, messages arrive again as soon as the claims are restated', redisOptions, async t => {
  const server = await redisServer(t)
  const site = siteOn(t, [server])
  const [sender, one, two] = await Promise.all(Array.from({ length: 3 }, () => site.join({ replaceTimeout: 2_000 }))) as [Process, Process, Process]
  await one.open('ann')
  await two.open('ann', 'b')
  await two.open('bob')
  t.equal(await sender.cluster.send(eventTo('ann')), 2)
  await server.kill()
  // Redis is away as soon as a command fails.
  t.equal(await sender.cluster.send(eventTo('ann', 'away')), 0)
  await server.start()
  while (await sender.cluster.send(eventTo('ann', 'back')) < 2) await pause(20)
  while (await sender.cluster.send(eventTo('bob', 'back')) < 1) await pause(20)
  while (await sender.cluster.send({ text: 'data: all\n\n' }) < 3) await pause(20)
  for (const process of [one, two]) t.notOk(process.delivered.some(message => dataOf(message) === 'away'))
})
