// Several processes on a Redis Cluster: how long a stream waits for a predecessor, and which streams a failover, a migration of a slot and a restart disturb.
import { setTimeout as pause } from 'node:timers/promises'
import { Cluster, type Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { RECORD_LEASE, bucketOf, digestOf } from '../../lib/redis/protocol.ts'
import { streamKey } from '../../lib/registry/stream-key.ts'
import { startCluster } from '../kit/cluster.ts'
import { connect } from '../kit/client.ts'
import { measureDelays, memberProcess, type QuickHolder } from '../kit/member-process.ts'
import { Random } from '../kit/random.ts'
import { redisNodes, redisOptions, redisServer, type RedisServer } from '../kit/redis.ts'
import { repeatWith, seed } from '../kit/seed.ts'

const STARTS = 1_000
const TABS = 20
/** The longest wait for a healthy predecessor. Unit: milliseconds. */
const HEALTHY = 200

// Stops only a test that hangs.
t.setTimeout(300_000)

function clusterClient (t: Test, nodes: RedisServer[]): Cluster {
  const redis = new Cluster(nodes.map(({ port }) => ({ host: '127.0.0.1', port })))
  redis.on('error', () => {})
  t.teardown(() => redis.disconnect())
  return redis
}

t.test(`no start waits longer than ${HEALTHY} ms for a healthy predecessor, while a process leaves and another joins`, redisOptions, async t => {
  const nodes = await redisNodes(t, 3)
  const processes = await Promise.all([1, 2, 3].map(() => memberProcess(t, clusterClient(t, nodes))))
  const random = new Random(seed)
  const live = new Map<string, QuickHolder[]>()
  const { longest } = measureDelays(t, nodes.map(node => node.client()))
  let slowest = 0
  let overtaken = 0
  // Streams that have started before their predecessor was gone.
  let early = 0
  let left = STARTS
  const startSome = async (until: number) => {
    await Promise.all(Array.from({ length: 10 }, async () => {
      while (left > until) {
        left--
        const tab = random.below(TABS)
        const { holder, waited } = await random.of(processes).start(`user ${tab % 10}`, `tab ${tab}`)
        slowest = Math.max(slowest, waited)
        const before = (live.get(String(tab)) ?? []).filter(({ isLive }) => isLive)
        if (!holder.isLive) overtaken++
        else if (before.length > 0) early++
        live.set(String(tab), [...before, holder])
      }
    }))
  }
  await startSome(STARTS / 2)
  const [leaving] = processes.splice(2, 1)
  // The other processes start streams while the process leaves and the new process joins.
  await Promise.all([startSome(STARTS / 4), leaving!.leave(), memberProcess(t, clusterClient(t, nodes)).then(joined => processes.push(joined))])
  await startSome(0)
  t.comment(`the slowest of ${STARTS} starts waited ${slowest.toFixed(1)} ms, ${overtaken} were overtaken; the machine delayed the other processes by ${longest().toFixed(1)} ms`)
  t.ok(slowest < HEALTHY + longest(), `${repeatWith(import.meta.url)}`)
  t.equal(early, 0, `each predecessor was gone: ${repeatWith(import.meta.url)}`)
  while ([...live.values()].some(holders => holders.filter(({ isLive }) => isLive).length > 1)) await pause(10)
  t.strictSame(processes.flatMap(({ said }) => said().filter(message => !message.includes('use the same tab id'))), [], 'no process was taken to be away or dead')
})

for (const [kind, bound] of [['single server', HEALTHY], ['Redis Cluster', 3_000]] as const) {
  t.test(`a killed process costs its tabs ${bound} ms on a ${kind}, and a process that left cleanly costs nothing`, redisOptions, async t => {
    const nodes = kind === 'Redis Cluster' ? await redisNodes(t, 3) : [await redisServer(t)]
    // Longer than the time limit of this file: a test that waits for replaceTimeout fails.
    const { processes } = await startCluster(t, 3, nodes[0]!.port, { REPLACE_TIMEOUT: '3600000', ...nodes.length > 1 ? { REDIS_CLUSTER: '1' } : {} })
    const tabs = Array.from({ length: 20 }, (_, i) => ({ scope: `user${i}`, tab: String(i) }))
    const open = async (process: number) => {
      const clients = await Promise.all(tabs.map(async ({ scope, tab }) => {
        const begun = performance.now()
        const client = await connect(processes[process]!.url(`/stream/${scope}?tab=${tab}`))
        t.teardown(() => client.leave())
        return { status: client.status, waited: performance.now() - begun }
      }))
      t.ok(clients.every(({ status }) => status === 200))
      return Math.max(...clients.map(({ waited }) => waited))
    }
    await open(0)
    // The time that the machine takes for twenty requests at once, with healthy predecessors.
    const healthy = await open(1)
    const { longest } = measureDelays(t, nodes.map(node => node.client()))
    processes[1]!.signal('SIGKILL')
    await processes[1]!.exited
    const killed = await open(2)
    t.comment(`healthy ${Math.round(healthy)} ms, killed ${Math.round(killed)} ms, the machine delayed the other processes by ${longest().toFixed(1)} ms`)
    t.ok(killed < bound + healthy + longest(), `${Math.round(killed)} ms`)
    processes[2]!.signal('SIGTERM')
    await processes[2]!.exited
    const left = await open(0)
    t.comment(`left ${Math.round(left)} ms`)
    t.ok(left < HEALTHY + healthy + longest(), `${Math.round(left)} ms`)
  })
}

t.test('after a failover to a replica each tab has only its newest stream, evictions reach all streams, and away and back are said once', redisOptions, async t => {
  const nodes = await redisNodes(t, 3, 1)
  const replica = nodes[3]!
  const [one, two] = await Promise.all([1, 2].map(() => memberProcess(t, clusterClient(t, nodes), { replaceTimeout: 1_000 }))) as [Member, Member]
  const tabs = Array.from({ length: 40 }, (_, i) => `user ${i}`)
  const old = await Promise.all(tabs.map(async scope => (await one.start(scope, 'a')).holder))
  const admin = replica.client()
  await admin.call('CLUSTER', 'FAILOVER')
  while (!(await admin.info('replication')).includes('role:master')) await pause(10)
  const newest = await Promise.all(tabs.map(async scope => (await two.start(scope, 'a')).holder))
  while (old.some(({ isLive }) => isLive)) await pause(10)
  t.ok(newest.every(({ isLive }) => isLive))
  for (const { said } of [one, two]) {
    const words = outagesIn(said())
    t.ok(words.length <= 2, `${words}`)
  }
  for (const scope of tabs) while (await one.registry.evict(scope).catch(() => 0) === 0 && newest.some(({ isLive }) => isLive)) await pause(50)
  t.ok(newest.every(({ isLive, reason }) => !isLive && reason === 'evicted'))
})

// The replica knows nothing of the last replacements and evictions.
t.test('after a failover to a replica that has missed the last writes, each tab has only its newest stream, and evictions hold', redisOptions, async t => {
  const nodes = await redisNodes(t, 3, 1, ['--cluster-node-timeout', '1000', '--cluster-replica-validity-factor', '0'])
  const [master, replica] = [nodes[0]!, nodes[3]!]
  const [one, two] = await Promise.all([1, 2].map(() => memberProcess(t, clusterClient(t, nodes), { replaceTimeout: 1_000 }))) as [Member, Member]
  const open = (process: Member, scopes: string[]) => Promise.all(scopes.map(async scope => (await process.start(scope, 'a')).holder))
  const scopes = (name: string, count: number) => Array.from({ length: count }, (_, i) => `${name} ${i}`)
  const [replaced, evicted, quiet] = [scopes('replaced', 40), scopes('evicted', 40), scopes('quiet', 40)]
  const [old, gone, kept] = [await open(one, replaced), await open(one, evicted), await open(one, quiet)]
  const [masterAdmin, admin] = [master.client(), replica.client()]
  const offset = async () => /master_repl_offset:(\d+)/.exec(await masterAdmin.info('replication'))![1]
  while (!(await admin.info('replication')).includes(`slave_repl_offset:${await offset()}`)) await pause(10)
  // From here on the replica cannot log in to the master.
  await admin.config('SET', 'masteruser', 'nobody')
  await admin.config('SET', 'masterauth', 'wrong')
  await masterAdmin.call('CLIENT', 'KILL', 'TYPE', 'replica')
  while (!(await admin.info('replication')).includes('master_link_status:down')) await pause(10)
  const newest = await open(two, replaced)
  t.strictSame(await Promise.all(evicted.map(scope => two.registry.evict(scope))), evicted.map(() => 1))
  const latest = await open(two, scopes('latest', 40))
  t.ok([...old, ...gone].every(({ isLive }) => !isLive))
  t.notOk((await admin.info('replication')).includes('master_link_status:up'), 'the replica has missed these writes')

  await master.kill()
  while (!(await admin.info('replication')).includes('role:master')) await pause(10)
  for (const { said } of [one, two]) while (outagesIn(said()).length % 2 === 1) await pause(10)
  t.ok([...newest, ...latest, ...kept].every(({ isLive }) => isLive), 'no stream has ended')
  t.ok([...old, ...gone].every(({ isLive }) => !isLive), 'no stream has come back')
  // Until both processes have restated their streams.
  for (const process of [one, two]) while (await process.registry.count('replaced 0') + await process.registry.count('latest 0') < 2) await pause(10)
  const all = [...replaced, ...scopes('latest', 40), ...quiet]
  const last = await open(one, all)
  while ([...newest, ...latest].some(({ isLive }) => isLive)) await pause(10)
  t.ok(last.every(({ isLive }) => isLive), 'each tab has its newest stream alone')
  t.strictSame(await Promise.all(all.map(scope => two.registry.evict(scope))), all.map(() => 1))
  t.ok(last.every(({ reason }) => reason === 'evicted'))
})

t.test('a slot in migration disturbs only the keys of that slot', redisOptions, async t => {
  const nodes = await redisNodes(t, 3)
  const [one, two] = await Promise.all([1, 2].map(() => memberProcess(t, clusterClient(t, nodes), { replaceTimeout: 1_000 }))) as [Member, Member]
  const tabs = Array.from({ length: 60 }, (_, i) => `user ${i}`)
  await Promise.all(tabs.map(scope => one.start(scope, 'a')))
  const admins = nodes.map(node => node.client())
  const bucket = bucketOf(digestOf(streamKey(tabs[0]!, 'a').scope))
  const slot = Number(await admins[0]!.cluster('KEYSLOT', `{${bucket.toString(16)}}`))
  const [source, target] = await masters(admins, slot)
  const [sourceId, targetId] = await Promise.all([source, target].map(async admin => String(await admin.call('CLUSTER', 'MYID'))))
  await target.call('CLUSTER', 'SETSLOT', slot, 'IMPORTING', sourceId!)
  await source.call('CLUSTER', 'SETSLOT', slot, 'MIGRATING', targetId!)
  // Half-way: some keys have moved, and some have not.
  const keys = await source.call('CLUSTER', 'GETKEYSINSLOT', slot, 1) as string[]
  await source.call('MIGRATE', '127.0.0.1', (target as Redis).options.port!, '', 0, 5_000, 'KEYS', ...keys)
  const others = tabs.filter(scope => bucketOf(digestOf(streamKey(scope, 'a').scope)) !== bucket)
  const { longest } = measureDelays(t, admins)
  const started = await Promise.all(others.map(scope => two.start(scope, 'a')))
  const slowest = Math.max(...started.map(({ waited }) => waited))
  t.ok(slowest < HEALTHY + longest(), `${Math.round(slowest)} ms`)
  t.equal(one.registry.size, tabs.length - others.length, 'the streams of other slots were replaced')
  // The streams of the slot still start.
  const disturbed = tabs.filter(scope => !others.includes(scope))
  const newest = await Promise.all(disturbed.map(scope => two.start(scope, 'a')))
  t.ok(newest.every(({ holder }) => holder.isLive))
  await pause(RECORD_LEASE)
  t.ok(started.every(({ holder }) => holder.isLive), 'nothing else has ended')

  for (let rest = keys; rest.length > 0;) {
    rest = await source.call('CLUSTER', 'GETKEYSINSLOT', slot, 1_000) as string[]
    if (rest.length > 0) await source.call('MIGRATE', '127.0.0.1', (target as Redis).options.port!, '', 0, 5_000, 'REPLACE', 'KEYS', ...rest)
  }
  for (const admin of [target, source]) await admin.call('CLUSTER', 'SETSLOT', slot, 'NODE', targetId!)
  while (one.registry.size > 0) await pause(10)
  t.ok([...started, ...newest].every(({ holder }) => holder.isLive), 'the newest are left')
  for (const { said } of [one, two]) t.ok([0, 2].includes(outagesIn(said()).length), `${outagesIn(said())}`)
})

type Member = Awaited<ReturnType<typeof memberProcess>>

function outagesIn (messages: string[]): string[] {
  return messages.map(message => /^Redis node \S+ is (away|back)/.exec(message)?.[1]).filter(word => word !== undefined)
}

/** The node that has `slot`, and another node. */
async function masters (admins: Redis[], slot: number): Promise<[Redis, Redis]> {
  const slots = await Promise.all(admins.map(async admin => ({ admin, lines: String(await admin.call('CLUSTER', 'NODES')).split('\n') })))
  const has = ({ lines }: { lines: string[] }) => {
    const own = lines.find(line => line.includes('myself'))!
    return own.split(' ').slice(8).some(range => { const [from, to = from] = range.split('-').map(Number); return slot >= from! && slot <= to! })
  }
  return [slots.find(has)!.admin, slots.find(node => !has(node))!.admin]
}
