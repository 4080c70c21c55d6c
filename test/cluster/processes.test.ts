// Three processes and a real Redis: the newest stream wins, streams of a key never overlap, and a process that dies or stops delays nobody for long.
import { setTimeout as pause } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { MIN_LEASE, RECORD_LEASE } from '../../lib/redis/protocol.ts'
import { connect, type Client } from '../kit/client.ts'
import { startCluster, type Said } from '../kit/cluster.ts'
import { Random } from '../kit/random.ts'
import { repeatWith, seed } from '../kit/seed.ts'
import { entriesOf, redisOptions, redisServer } from '../kit/redis.ts'

const STARTS = 5_000

// Stops only a test that hangs: a start takes a few milliseconds, and the longest test takes 20 seconds.
t.setTimeout(300_000 + STARTS * 200)

async function build (t: Test, env: Record<string, string> = {}) {
  const server = await redisServer(t)
  const cluster = await startCluster(t, 3, server.port, env)
  const clients: Client[] = []
  const redis = server.client()
  /** Resolves when `count` processes, one after another, have claimed the key. */
  const claimants = new Set<string>()
  const claimed = async (count: number) => {
    while (claimants.size < count) {
      for (const entry of await entriesOf(redis)) claimants.add(entry)
      await pause(5)
    }
  }
  t.teardown(() => { for (const client of clients) client.leave() })
  const open = async (process: number, scope = 'ann', tab = 'a') => {
    const client = await connect(cluster.processes[process]!.url(`/stream/${scope}?tab=${tab}`))
    clients.push(client)
    return client
  }
  return { ...cluster, server, open, claimed }
}

t.test('5,000 starts over 50 keys at random leave the newest stream of each key, and two streams of a key never run at the same time', redisOptions, async t => {
  const { processes, said, open, live, until, server } = await build(t)
  const keys = Array.from({ length: 50 }, (_, i) => ({ scope: `scope${i % 10}`, tab: `tab${i}` }))
  let left = STARTS
  const random = new Random(seed)
  const statuses = new Map<number, number>()
  await Promise.all(Array.from({ length: 100 }, async () => {
    while (left-- > 0) {
      const { scope, tab } = random.of(keys)
      const { status } = await open(random.below(3), scope, tab)
      statuses.set(status, (statuses.get(status) ?? 0) + 1)
    }
  }))
  t.strictSame([...statuses.keys()].filter(status => status !== 200 && status !== 204), [], 'no request failed')
  await until(() => keys.every(({ scope, tab }) => live(`${scope} ${tab}`).length === 1))
  t.comment(`${statuses.get(200)} opened, ${statuses.get(204)} were overtaken while they waited`)

  // Redis knows the newest claim: the member, and the number of the member's last claim.
  const redis = server.client()
  const newest = await entriesOf(redis)
  t.equal(newest.length, 50)
  const processOf = new Map<string, number>()
  const lives = keys.map(({ scope, tab }) => live(`${scope} ${tab}`)[0]!)
  for (const { process, number } of lives) {
    const candidates = newest.map(entry => entry.split(' ')).filter(([, n, member]) => Number(n) === number && (processOf.get(member!) ?? process) === process)
    t.ok(candidates.length > 0, 'the live stream is the stream that Redis knows')
    if (candidates.length === 1) processOf.set(candidates[0]![2]!, process)
  }
  t.equal(processOf.size, 3)

  // A wait without an answer would be reported shortly after the stream has opened.
  await pause(200)
  const order = said.filter(({ event }) => event === 'open' || event === 'gone').sort((a, b) => a.at < b.at ? -1 : 1)
  const present = new Map<string, Said>()
  let doubles = 0
  for (const word of order) {
    if (word.event === 'gone') {
      if (present.get(word.key!)?.id === word.id) present.delete(word.key!)
    } else {
      if (present.has(word.key!)) doubles++
      present.set(word.key!, word)
    }
  }
  t.equal(doubles, 0, `two streams of a key never run at the same time: ${repeatWith(import.meta.url)}`)
  t.strictSame(said.filter(({ event, line }) => event === 'log' && !line!.msg.includes('use the same tab id')), [], 'the only warnings are about tabs that share a tab id')
  t.strictSame((await Promise.all(processes.map(({ ask }) => ask('/size')))).reduce((a, b) => a + b), 50)
})

t.test('after kill -9 of the holder the newcomer starts without waiting, and the dead process\'s entries are soon removed', redisOptions, async t => {
  // Longer than the time limit of this file: a test that waits for replaceTimeout fails.
  const { processes, open, live, until, server } = await build(t, { LEASE: String(MIN_LEASE), REPLACE_TIMEOUT: '3600000' })
  await open(0)
  await open(0, 'bob')
  await open(1, 'bob', 'b')
  processes[0]!.signal('SIGKILL')
  await processes[0]!.exited
  t.equal((await open(1)).status, 200)
  await until(() => live('ann a').some(({ process }) => process === 1))
  const redis = server.client()
  // Bob's dead stream and his living stream share a hash. Process 1 finds the dead entry at the latest half a lease after the end of the dead
  // process's record. Checks for that long and half a second, and longer on a slow machine, where each check takes longer.
  let checks = 0
  while ((await entriesOf(redis)).length > 2 && checks < (RECORD_LEASE + MIN_LEASE / 2 + 500) / 20) {
    checks++
    await pause(20)
  }
  t.equal((await entriesOf(redis)).length, 2, `${checks} checks`)
  t.equal(await processes[2]!.ask('/count/bob'), 1)
})

t.test('a newcomer stops waiting for a holder whose process is killed', redisOptions, async t => {
  const { processes, open, claimed } = await build(t, { REPLACE_TIMEOUT: '3600000' })
  await open(0)
  processes[0]!.signal('SIGSTOP')
  const waiting = open(1)
  await claimed(2)
  processes[0]!.signal('SIGKILL')
  t.equal((await waiting).status, 200)
})

// A newcomer was killed while it waited. Its own successor found nobody to wait for, and opened beside the holder.
t.test('if a newcomer is killed while waiting for a holder, the next newcomer waits for the holder', redisOptions, async t => {
  const { processes, open, live, claimed } = await build(t, { REPLACE_TIMEOUT: '3600000' })
  await open(0)
  // The holder is alive and receives messages, and only the end takes long.
  processes[0]!.signal('SIGSTOP')
  const waiting = open(1).catch(() => {})
  await claimed(2)
  processes[1]!.signal('SIGKILL')
  await Promise.all([processes[1]!.exited, waiting])
  const newest = open(2)
  await claimed(3)
  // A newcomer that does not wait would open now.
  await pause(1_000)
  t.equal(live('ann a').length, 1, 'the holder is still the only stream')
  processes[0]!.signal('SIGCONT')
  t.equal((await newest).status, 200)
})

t.test('after SIGSTOP of the holder for 20 s the newcomer starts at replaceTimeout, and on SIGCONT the old stream ends within a second', redisOptions, async t => {
  const { processes, open, live, said, until } = await build(t, { REPLACE_TIMEOUT: '2000' })
  await open(0)
  // Measures how long this machine takes to start and end a stream without a predecessor.
  const begun = performance.now()
  const other = await open(1, 'bob')
  other.leave()
  await until(() => said.some(({ event, key }) => event === 'gone' && key === 'bob a'))
  const late = 20 * (performance.now() - begun)
  processes[0]!.signal('SIGSTOP')
  const stopped = performance.now()
  await open(1)
  const waited = performance.now() - stopped
  t.ok(waited > 1_900 && waited < 3_000 + late, `waited ${Math.round(waited)} ms`)
  await until(() => live('ann a').length === 2 && said.some(({ event, line }) => event === 'log' && line!.msg.startsWith('another process did not end a stream within replaceTimeout')))
  await pause(Math.max(0, 20_000 - waited))
  processes[0]!.signal('SIGCONT')
  const continued = performance.now()
  await until(() => live('ann a').length === 1)
  t.ok(performance.now() - continued < 1_000 + late)
  t.equal(live('ann a')[0]!.process, 1)
})

t.test('when one of three processes closes, its entries are removed at once, its streams end, and an eviction reaches the other processes', redisOptions, async t => {
  const { processes, open, live, until } = await build(t)
  const clients = [await open(0, 'ann', 'a'), await open(1, 'ann', 'b'), await open(2, 'ann', 'c')]
  t.equal(await processes[0]!.ask('/count/ann'), 3)
  processes[2]!.signal('SIGTERM')
  await processes[2]!.exited
  t.equal(await processes[0]!.ask('/count/ann'), 2)
  t.equal(await processes[0]!.ask('/evict/ann', 'POST'), 2)
  t.strictSame(await Promise.all(clients.map(client => client.ended)), ['clean', 'clean', 'broken'])
  await until(() => ['a', 'b', 'c'].every(tab => live(`ann ${tab}`).length === 0))
  t.equal(await processes[1]!.ask('/count/ann'), 0)
})
