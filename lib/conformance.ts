// The entry point `octa-star-streams/conformance`: tests the rules that every adapter for the option `cluster` must keep. Works in any test
// runner, and tests through the plugin's own registry, so that claims are made and released exactly as in an application. Messages and
// lists are tested without streams: a test chooses what a process answers to the other processes.
import assert from 'node:assert/strict'
import type { FastifyBaseLogger } from 'fastify'
import { Registry } from './registry/registry.ts'
import { canonical, streamKey } from './registry/stream-key.ts'
import { deferred, within } from './wait.ts'
import type { Cluster, ClusterAdapter, ClusterMessage } from '../types/cluster.ts'
import type { CloseReason, Holder, ScopeKey, StreamInfo, StreamKey } from '../types/stream.ts'

/** What a test of {@link testCluster} runs against. */
export interface ClusterTestStore<Adapter extends ClusterAdapter = ClusterAdapter> {
  /**
   * Makes the adapter of a further process. All adapters share the store, and nothing else: give each adapter separate
   * connections, as if each adapter ran in a separate process. Called up to three times per test.
   */
  adapter (): Adapter | Promise<Adapter>
  /** Frees what the test used. Called at the end of the test, when every member has left. */
  tearDown?: (() => unknown) | undefined
}

export interface ClusterTestOptions<Adapter extends ClusterAdapter = ClusterAdapter> {
  /**
   * Registers a test: `test` of `node:test`, `it` of Mocha or Vitest, or `(title, run) => t.test(title, run)` for a `t` of tap
   * or `node:test`. A test fails if `run` rejects. `run` takes no parameters.
   */
  test (title: string, run: () => Promise<void>): unknown
  /** Makes an empty store. Called at the beginning of each test. */
  build (): ClusterTestStore<Adapter> | Promise<ClusterTestStore<Adapter>>
  /**
   * Cuts the process of `adapter` off from the store, as a broken network does, and returns a function that connects the
   * process again. If you pass `disconnect`, the rules about an unreachable store are tested too. A test may end while the
   * process is cut off.
   */
  disconnect?: ((adapter: Adapter) => (() => unknown) | Promise<() => unknown>) | undefined
  /** How long the tests wait for what must happen, before a test fails. Unit: milliseconds. Default: `10000`. */
  timeout?: number | undefined
}

/**
 * Registers a test for each rule of the contract {@link Cluster}. Resolves when every promise that `test` returned has resolved.
 *
 * @example
 * import { test } from 'node:test'
 *
 * await testCluster({
 *   test,
 *   build () {
 *     const bucket = randomUUID() // an empty store
 *     return { adapter: () => natsCluster({ bucket }) }
 *   }
 * })
 */
export async function testCluster<Adapter extends ClusterAdapter> (options: ClusterTestOptions<Adapter>): Promise<void> {
  const { disconnect, timeout = 10_000 } = options
  const results: unknown[] = []

  function rule (title: string, run: (stage: Stage<Adapter>) => Promise<void>): void {
    results.push(options.test(title, async () => {
      const stage = new Stage(await options.build(), timeout)
      try {
        await run(stage)
      } catch (error) {
        // A method that failed, or else the first error, says more than an error of the tear-down.
        await stage.tearDown().catch(() => {})
        throw stage.failure ?? error
      }
      await stage.tearDown()
      if (stage.failure !== undefined) throw stage.failure
    }))
  }

  rule('a claim on a free key starts at once and is not ended', async stage => {
    const [one, two] = await stage.join(2)
    const holder = await stage.start(one, streamKey('ann', 'a'))
    await stage.exchange()
    assert.deepEqual(holder.reasons, [])
    await stage.counts(two, 'ann', 1)
  })

  rule('a newer claim of another process ends the previous claim as replaced', async stage => {
    const [one, two] = await stage.join(2)
    const older = await stage.start(one, streamKey('ann', 'a'))
    const newer = stage.claim(two, streamKey('ann', 'a'))
    await stage.ends(older, 'replaced')
    older.leave()
    await stage.starts(newer)
    await stage.exchange()
    assert.deepEqual(newer.reasons, [], 'the newer claim is left')
  })

  rule('a newer claim starts when the previous claim is released, and not before', async stage => {
    const [one, two] = await stage.join(2)
    const older = await stage.start(one, streamKey('ann', 'a'))
    const newer = stage.claim(two, streamKey('ann', 'a'))
    await stage.ends(older, 'replaced')
    await stage.exchange()
    assert.equal(newer.hasStarted, false, 'the previous claim is not released yet')
    older.leave()
    await stage.starts(newer)
  })

  rule('a claim that is released as soon as it is ended does not delay its successor', async stage => {
    const [one, two] = await stage.join(2)
    const older = await stage.start(one, streamKey('ann', 'a'))
    older.leaveAtOnce()
    await stage.starts(stage.claim(two, streamKey('ann', 'a')))
    await stage.counts(one, 'ann', 1)
  })

  rule('a successor also waits for what its predecessor was waiting for', async stage => {
    const [one, two, three] = await stage.join(3)
    const first = await stage.start(one, streamKey('ann', 'a'))
    const second = stage.claim(two, streamKey('ann', 'a'))
    await stage.ends(first, 'replaced')
    const third = stage.claim(three, streamKey('ann', 'a'))
    await stage.ends(second, 'replaced')
    second.leave()
    await stage.exchange()
    assert.equal(third.hasStarted, false, 'the first claim is not released yet')
    first.leave()
    await stage.starts(third)
    assert.equal(await second.started, false, 'the second claim ended while it waited')
  })

  rule('a key whose claim was released is free', async stage => {
    const [one, two] = await stage.join(2)
    const holder = await stage.start(one, streamKey('ann', 'a'))
    holder.leave()
    await stage.counts(two, 'ann', 0)
    await stage.start(two, streamKey('ann', 'a'))
    await stage.counts(one, 'ann', 1)
  })

  rule('a claim that is released while it is being made leaves nothing behind', async stage => {
    const [one, two] = await stage.join(2)
    const brief = stage.claim(one, streamKey('ann', 'a'))
    brief.leave()
    await stage.settles(brief)
    await stage.exchange()
    await stage.counts(two, 'ann', 0)
    await stage.start(two, streamKey('ann', 'a'))
  })

  rule('the release of a replaced claim does not release its successor', async stage => {
    const [one, two, three] = await stage.join(3)
    const first = await stage.start(one, streamKey('ann', 'a'))
    first.leaveAtOnce()
    const second = await stage.start(two, streamKey('ann', 'a'))
    await stage.exchange()
    await stage.counts(three, 'ann', 1)
    const third = stage.claim(three, streamKey('ann', 'a'))
    await stage.ends(second, 'replaced')
    await stage.exchange()
    assert.equal(third.hasStarted, false, 'the second claim is not released yet')
    second.leave()
    await stage.starts(third)
  })

  rule('the claims of a process count in the order of the calls', async stage => {
    const [one, two] = await stage.join(2)
    const holders = Array.from({ length: 10 }, () => stage.claim(one, streamKey('ann', 'a')))
    for (const holder of holders.slice(0, 9)) holder.leaveAtOnce()
    const last = holders[9]!
    await stage.starts(last)
    await stage.counts(two, 'ann', 1)
    const newer = stage.claim(two, streamKey('ann', 'a'))
    await stage.ends(last, 'replaced')
    await stage.exchange()
    assert.equal(newer.hasStarted, false, 'the last claim is not released yet')
    last.leave()
    await stage.starts(newer)
  })

  rule('a key can move between processes again and again', async stage => {
    const processes = await stage.join(3)
    let holder = await stage.start(processes[0], streamKey('ann', 'a'))
    for (let move = 1; move <= 20; move++) {
      const newer = stage.claim(processes[move % 3]!, streamKey('ann', 'a'))
      await stage.ends(holder, 'replaced')
      holder.leave()
      await stage.starts(newer)
      holder = newer
    }
    await stage.exchange()
    assert.deepEqual(holder.reasons, [])
  })

  rule('of 100 claims that race in three processes exactly one is left, and no two run at the same time', async stage => {
    const processes = await stage.join(3)
    const running = new Set<TestHolder>()
    let most = 0
    const holders: TestHolder[] = []
    const claimNext = async (process: Process<Adapter>) => {
      const holder = stage.claim(process, streamKey('ann', 'a'))
      holders.push(holder)
      holder.ended.then(async () => {
        // A stream needs a moment to clean up.
        await pause(holders.indexOf(holder) % 3)
        running.delete(holder)
        holder.leave()
      })
      if (!await stage.settles(holder)) return
      running.add(holder)
      most = Math.max(most, running.size)
    }
    const claims: Array<Promise<void>> = []
    for (let wave = 0; wave < 10; wave++) {
      for (let i = 0; i < 10; i++) claims.push(claimNext(processes[(i + wave) % 3]!))
      // Every second wave meets a claim that runs, and the others meet claims that still wait.
      await (wave % 2 === 0 ? Promise.all(claims) : pause(1))
    }
    await Promise.all(claims)
    await stage.until(() => running.size === 1, `one of 100 claims is left, and not ${running.size}`)
    await stage.exchange()
    assert.equal(most, 1, 'claims that ran at the same time')
    assert.equal(holders.filter(({ reasons }) => reasons.length === 0).length, 1, 'claims that are left')
    for (const process of processes) await stage.counts(process, 'ann', 1)
  })

  rule('claims that race on many keys leave one on each', async stage => {
    const processes = await stage.join(3)
    const holders = Array.from({ length: 120 }, (_, i) => {
      const holder = stage.claim(processes[i % 3]!, streamKey('ann', String(i % 8)))
      holder.leaveAtOnce()
      return holder
    })
    for (const holder of holders) await stage.settles(holder)
    await stage.exchange()
    const left = holders.filter(({ reasons }) => reasons.length === 0).map(({ key }) => key.tabId)
    assert.deepEqual(left.sort(), ['0', '1', '2', '3', '4', '5', '6', '7'])
    for (const process of processes) await stage.counts(process, 'ann', 8)
  })

  rule('claims without a tab id never replace each other, even if two processes give them the same slot', async stage => {
    const [one, two] = await stage.join(2)
    // Two processes count their claims without a tab id separately, so equal slots are ordinary.
    const key = () => ({ ...streamKey('ann'), slot: '1' })
    const holders = [await stage.start(one, key()), await stage.start(two, key())]
    await stage.exchange()
    assert.deepEqual(holders.map(({ reasons }) => reasons), [[], []])
    assert.equal(await two.registry.count('ann'), 2)
    for (const holder of holders) holder.leaveAtOnce()
    assert.equal(await stage.soon(one.registry.evict('ann'), '`evict` resolves'), 2)
  })

  rule('a process that joins later finds the claims of the others', async stage => {
    const [one] = await stage.join(1)
    const older = await stage.start(one, streamKey('ann', 'a'))
    const [late] = await stage.join(1)
    assert.equal(await late.registry.count('ann'), 1)
    const newer = stage.claim(late, streamKey('ann', 'a'))
    await stage.ends(older, 'replaced')
    older.leave()
    await stage.starts(newer)
  })

  rule('a process that leaves is not waited for', async stage => {
    const [one, two, three] = await stage.join(3)
    const older = await stage.start(one, streamKey('ann', 'a'))
    const newer = stage.claim(two, streamKey('ann', 'a'))
    await stage.ends(older, 'replaced')
    await stage.leaves(one)
    await stage.starts(newer)
    await stage.counts(three, 'ann', 1)
  })

  rule('a process that leaves takes its claims along, and only those', async stage => {
    const [one, two, three] = await stage.join(3)
    for (const tab of ['a', 'b', 'c']) await stage.start(one, streamKey('ann', tab))
    const stays = await stage.start(two, streamKey('ann', 'd'))
    await stage.counts(three, 'ann', 4)
    await stage.leaves(one)
    await stage.counts(three, 'ann', 1)
    for (const tab of ['a', 'b', 'c']) await stage.start(three, streamKey('ann', tab))
    assert.deepEqual(stays.reasons, [])
  })

  rule('a release after the process has left is ignored', async stage => {
    const [one, two, three] = await stage.join(3)
    const older = await stage.start(one, streamKey('ann', 'a'))
    await stage.leaves(one)
    await stage.start(two, streamKey('ann', 'a'))
    older.leave()
    await older.gone
    await stage.exchange([two, three])
    await stage.counts(three, 'ann', 1)
  })

  rule('an eviction ends every claim that the processes have in the scope, and no claim of another scope', async stage => {
    const processes = await stage.join(3)
    const ann = [await stage.start(processes[0], streamKey('ann', 'a')), await stage.start(processes[1], streamKey('ann', 'a', 'chat')), await stage.start(processes[2], streamKey('ann'))]
    const others = [await stage.start(processes[1], streamKey('bob', 'a')), await stage.start(processes[2], streamKey(['ann'], 'a'))]
    const eviction = processes[0].registry.evict('ann')
    for (const holder of ann) await stage.ends(holder, 'evicted')
    for (const holder of ann) holder.leave()
    assert.equal(await stage.soon(eviction, '`evict` resolves'), 3)
    assert.deepEqual(ann.map(({ reasons }) => reasons), [['evicted'], ['evicted'], ['evicted']])
    await stage.exchange()
    assert.deepEqual(others.map(({ reasons }) => reasons), [[], []])
    for (const process of processes) await stage.counts(process, 'ann', 0)
  })

  rule('an eviction resolves when every ended claim is released, and not before', async stage => {
    const processes = await stage.join(3)
    const near = await stage.start(processes[1], streamKey('ann', 'a'))
    const far = await stage.start(processes[2], streamKey('ann', 'b'))
    let evicted: number | undefined
    const eviction = processes[0].registry.evict('ann').then(count => { evicted = count })
    await stage.ends(near, 'evicted')
    await stage.ends(far, 'evicted')
    near.leave()
    await stage.exchange()
    assert.equal(evicted, undefined, 'the claim of the third process is not released yet')
    far.leave()
    await stage.soon(eviction, '`evict` resolves')
    assert.equal(evicted, 2)
  })

  rule('an eviction rejects after replaceTimeout if a claim is not released', async stage => {
    const [one] = await stage.join(1)
    const [impatient] = await stage.join(1, { replaceTimeout: Math.ceil(timeout / 10) })
    const holder = await stage.start(one, streamKey('ann', 'a'))
    const outcome = await stage.soon(impatient.registry.evict('ann').then(count => `resolved to ${count}`, () => 'rejected'), '`evict` rejects')
    assert.equal(outcome, 'rejected')
    assert.deepEqual(holder.reasons, ['evicted'])
  })

  rule('an eviction does not end a claim that is made after the eviction', async stage => {
    const [one, two] = await stage.join(2)
    const older = await stage.start(one, streamKey('ann', 'a'))
    older.leaveAtOnce()
    assert.equal(await stage.soon(two.registry.evict('ann'), '`evict` resolves'), 1)
    const newer = await stage.start(one, streamKey('ann', 'a'))
    await stage.exchange()
    assert.deepEqual(newer.reasons, [])
    await stage.counts(two, 'ann', 1)
  })

  rule('a successor waits for an evicted claim that is not released yet', async stage => {
    const [one, two, three] = await stage.join(3)
    const older = await stage.start(one, streamKey('ann', 'a'))
    const eviction = two.registry.evict('ann')
    await stage.ends(older, 'evicted')
    const newer = stage.claim(three, streamKey('ann', 'a'))
    await stage.exchange()
    assert.equal(newer.hasStarted, false, 'the evicted claim is not released yet')
    older.leave()
    await stage.starts(newer)
    assert.equal(await stage.soon(eviction, '`evict` resolves'), 1)
    assert.deepEqual(newer.reasons, [])
  })

  rule('an eviction of a tab ends the claims of the tab under every name, and no claim of another tab', async stage => {
    const processes = await stage.join(3)
    const keys = [streamKey('ann', 'a'), streamKey('ann', 'a', 'chat'), streamKey('ann', 'ab'), streamKey('ann', 'chat', 'a'), streamKey('ann'), streamKey('bob', 'a')]
    const holders: TestHolder[] = []
    for (const [i, key] of keys.entries()) holders.push(await stage.start(processes[i % 2]!, key))
    for (const holder of holders) holder.leaveAtOnce()
    assert.equal(await stage.soon(processes[2].registry.evict('ann', 'a'), '`evict` resolves'), 2)
    await stage.exchange()
    assert.deepEqual(holders.map(({ reasons }) => reasons), [['evicted'], ['evicted'], [], [], [], []])
    await stage.counts(processes[2], 'ann', 3)
  })

  rule('an eviction of nothing resolves to 0', async stage => {
    const [one, two] = await stage.join(2)
    const holder = await stage.start(two, streamKey('ann', 'a'))
    assert.equal(await stage.soon(one.registry.evict('bob'), '`evict` resolves'), 0)
    assert.equal(await stage.soon(one.registry.evict('ann', 'b'), '`evict` resolves'), 0)
    await stage.exchange()
    assert.deepEqual(holder.reasons, [])
  })

  rule('an eviction reaches 500 claims of a scope', async stage => {
    const [one, two, three] = await stage.join(3)
    const holders = Array.from({ length: 500 }, (_, i) => stage.claim(i % 2 === 0 ? one : two, streamKey('ann', String(i))))
    for (const holder of holders) {
      await stage.starts(holder)
      holder.leaveAtOnce()
    }
    assert.equal(await three.registry.count('ann'), 500)
    assert.equal(await stage.soon(three.registry.evict('ann'), '`evict` resolves'), 500)
    await stage.counts(three, 'ann', 0)
  })

  rule('a key counts once, wherever its claim was made', async stage => {
    const processes = await stage.join(3)
    const older = await stage.start(processes[0], streamKey('ann', 'a'))
    await stage.start(processes[1], streamKey('ann', 'b'))
    await stage.start(processes[1], streamKey('bob', 'a'))
    for (const { registry } of processes) assert.equal(await registry.count('ann'), 2)
    const newer = stage.claim(processes[2], streamKey('ann', 'a'))
    await stage.ends(older, 'replaced')
    for (const { name, registry } of processes) assert.equal(await registry.count('ann'), 2, `${name} counts a claim and its successor once`)
    older.leave()
    await stage.starts(newer)
    await stage.exchange()
    for (const { registry } of processes) assert.equal(await registry.count('ann'), 2)
    for (const { registry } of processes) assert.equal(await registry.count('nobody'), 0)
  })

  rule('namespaces do not meet, and a namespace is the same in every process', async stage => {
    const [one, two] = await stage.join(2)
    const [oneApart, twoApart] = [await stage.joinAgain(one, { namespace: '2' }), await stage.joinAgain(two, { namespace: '2' })]
    const holder = await stage.start(one, streamKey('ann', 'a'))
    const apart = await stage.start(oneApart, streamKey('ann', 'a'))
    await stage.exchange()
    assert.deepEqual(holder.reasons, [])
    assert.equal(await two.registry.count('ann'), 1)
    assert.equal(await twoApart.registry.count('ann'), 1)
    apart.leaveAtOnce()
    assert.equal(await stage.soon(twoApart.registry.evict('ann'), '`evict` resolves'), 1)
    await stage.exchange()
    assert.deepEqual([holder.reasons, apart.reasons], [[], ['evicted']])
    const newer = stage.claim(two, streamKey('ann', 'a'))
    await stage.ends(holder, 'replaced')
    holder.leave()
    await stage.starts(newer)
  })

  rule('a namespace that leaves does not disturb the other namespaces of the process', async stage => {
    const [one, two] = await stage.join(2)
    const apart = await stage.joinAgain(one, { namespace: '2' })
    const holder = await stage.start(one, streamKey('ann', 'a'))
    await stage.leaves(apart)
    await stage.counts(two, 'ann', 1)
    const newer = stage.claim(two, streamKey('ann', 'a'))
    await stage.ends(holder, 'replaced')
    holder.leave()
    await stage.starts(newer)
  })

  rule('different scope keys do not meet, whatever characters they consist of', async stage => {
    const processes = await stage.join(3)
    const scopes: ScopeKey[] = [...STRINGS, ...VALUES]
    const holders: TestHolder[] = []
    for (const [i, scope] of scopes.entries()) holders.push(await stage.start(processes[i % 3]!, streamKey(scope, 'a')))
    await stage.exchange()
    assert.deepEqual(scopes.filter((_, i) => holders[i]!.reasons.length > 0), [], 'scope keys whose claim was ended')
    for (const [i, scope] of scopes.entries()) {
      const { registry } = processes[(i + 1) % 3]!
      holders[i]!.leaveAtOnce()
      assert.equal(await registry.count(scope), 1, `the claims in scope ${show(scope)}`)
      assert.equal(await stage.soon(registry.evict(scope), '`evict` resolves'), 1, `the evicted claims in scope ${show(scope)}`)
    }
  })

  rule('different tab ids and names do not meet, whatever characters they consist of', async stage => {
    const processes = await stage.join(3)
    const keys = STRINGS.flatMap(text => [streamKey('ann', text), ...text === '' ? [] : [streamKey('ann', text, text), streamKey('ann', 'tab', text)]])
    for (const [tabId, name] of [['a', 'b'], ['a:', 'b'], ['a', ':b'], ['a b', 'c'], ['a', 'b c'], ['a"', 'b'], ['a', '"b'], ['a\0', 'b'], ['a', '\0b']]) keys.push(streamKey('ann', tabId, name))
    const holders: TestHolder[] = []
    for (const [i, key] of keys.entries()) holders.push(await stage.start(processes[(i + Math.floor(i / 3)) % 3]!, key))
    await stage.exchange()
    assert.deepEqual(keys.filter((_, i) => holders[i]!.reasons.length > 0).map(({ slot }) => slot), [], 'keys whose claim was ended')
    for (const { registry } of processes) assert.equal(await registry.count('ann'), keys.length)
    for (const [i, key] of keys.entries()) {
      const newer = stage.claim(processes[(i + Math.floor(i / 3) + 1) % 3]!, key)
      await stage.ends(holders[i]!, 'replaced')
      holders[i]!.leave()
      await stage.starts(newer)
      newer.leaveAtOnce()
    }
    for (const tabId of new Set(keys.map(key => key.tabId))) {
      const evicted = await stage.soon(processes[0].registry.evict('ann', tabId), '`evict` resolves')
      assert.equal(evicted, keys.filter(key => key.tabId === tabId).length, `the evicted claims of tab ${show(tabId)}`)
    }
    await stage.counts(processes[0], 'ann', 0)
  })

  rule('a message is delivered once in every other process that has claims in the scope', async stage => {
    const [one, two, three] = await stage.join(3)
    for (const [i, process] of [two, three, two, three].entries()) await stage.start(process, streamKey('ann', String(i)))
    await stage.send(one, 'ann', { text: 'hello' })
    await stage.delivers([[two, ['hello']], [three, ['hello']]])
  })

  rule('a message resolves to the number of streams that took the message in the other processes', async stage => {
    const [one, two, three] = await stage.join(3)
    for (const [i, process] of [two, three, two].entries()) await stage.start(process, streamKey('ann', String(i)))
    two.takes = () => 20
    three.takes = () => 3
    assert.equal(await stage.send(one, 'ann'), 23)
    assert.equal(await stage.send(one, undefined), 23)
    assert.equal(await stage.send(two, 'ann'), 3)
    two.takes = three.takes = () => 0
    assert.equal(await stage.send(one, 'ann'), 0)
    assert.equal(await stage.send(one, 'nobody'), 0, 'the streams of a scope without claims')
  })

  rule('a message is not delivered in a process that has no claims in the scope', async stage => {
    const [one, two, three] = await stage.join(3)
    await stage.start(two, streamKey('ann', 'a'))
    await stage.start(three, streamKey('bob', 'a'))
    await stage.send(one, 'ann', { text: 'to ann' })
    await stage.send(one, 'bob', { text: 'to bob' })
    await stage.send(one, 'nobody', { text: 'to nobody' })
    await stage.delivers([[two, ['to ann']], [three, ['to bob']]])
  })

  rule('a message is not delivered in the process that sends the message', async stage => {
    const [one, two] = await stage.join(2)
    for (const [i, process] of [one, two, one].entries()) await stage.start(process, streamKey('ann', String(i)))
    one.takes = () => 10
    assert.equal(await stage.send(one, 'ann', { text: 'to ann' }), 1)
    assert.equal(await stage.send(one, undefined, { text: 'to everybody' }), 1)
    await stage.delivers([[one, []], [two, ['to ann', 'to everybody']]])
  })

  rule('a message without a scope is delivered once in every other process, even in a process without claims', async stage => {
    const [one, two] = await stage.join(2)
    for (const tab of ['a', 'b']) await stage.start(two, streamKey('ann', tab))
    await stage.send(one, undefined, { text: 'early' })
    const [three] = await stage.join(1)
    await stage.send(one, undefined, { text: 'late' })
    await stage.delivers([[one, []], [two, ['early', 'late']], [three, ['late']]])
    assert.deepEqual(two.delivered.map(({ scope }) => scope), [undefined, undefined])
  })

  rule('the scope, tabId, name, except and retry of a message arrive unchanged, undefined included', async stage => {
    const [one, two] = await stage.join(2)
    await stage.start(two, streamKey('ann', 'a'))
    const messages: Array<Partial<ClusterMessage>> = [
      {}, { tabId: undefined, name: undefined, except: undefined, retry: undefined }, { tabId: 'a', name: 'b', except: 'c', retry: 1_000 },
      { tabId: 'a', except: 'c' }, { retry: 0 }, { retry: 2_147_483_647 }, ...STRINGS.flatMap(text => [{ tabId: text }, { name: text }, { except: text }])
    ]
    await Promise.all(messages.map((message, i) => stage.send(one, 'ann', { ...message, text: String(i) })))
    await stage.until(() => two.delivered.length >= messages.length, () => `${messages.length} messages are delivered, and not ${two.delivered.length}`)
    for (const [i, message] of messages.entries()) {
      const delivered = two.delivered.find(({ text }) => text === String(i))
      assert.deepEqual({ ...delivered }, { scope: canonical('ann', 'send'), tabId: undefined, name: undefined, except: undefined, retry: undefined, ...message, text: String(i) })
    }
  })

  rule('the text of a message arrives unchanged, whatever characters the text consists of', async stage => {
    const [one, two] = await stage.join(2)
    await stage.start(two, streamKey('ann', 'a'))
    // Clients get an event as UTF-8, and UTF-8 cannot encode lone surrogates.
    const texts = [...STRINGS.filter(text => Buffer.from(text).toString() === text), 'data: a\n\n', 'id: 1\nevent: b\nretry: 2\ndata: {"c":"d e"}\ndata: \ndata: f\n\n', '\n\n', ' \n ']
    for (const scopeKey of ['ann', undefined]) await Promise.all(texts.map(text => stage.send(one, scopeKey, { text })))
    await stage.until(() => two.texts.length >= 2 * texts.length, () => `${2 * texts.length} messages are delivered, and not ${two.texts.length}`)
    assert.deepEqual(two.texts.toSorted(), [...texts, ...texts].sort())
  })

  rule('a text of maxMessageBytes bytes arrives unchanged', async stage => {
    const [one, two] = await stage.join(2)
    await stage.start(two, streamKey('ann', 'a'))
    const { maxMessageBytes } = one.cluster
    assert.ok(maxMessageBytes > 0, `\`maxMessageBytes\` is a number of bytes, and not ${maxMessageBytes}`)
    // Not every machine can test a greater limit.
    const bytes = Math.min(Math.floor(maxMessageBytes), 1_048_576)
    for (const unit of ['x', '😀', '"\n']) {
      const unitBytes = Buffer.byteLength(unit)
      const text = unit.repeat(bytes / unitBytes) + 'x'.repeat(bytes % unitBytes)
      assert.equal(await stage.send(one, 'ann', { text }), 1, `the streams that took ${bytes} bytes of ${show(unit)}`)
      assert.ok(two.texts.at(-1) === text, `${bytes} bytes of ${show(unit)} arrive unchanged, and not as ${two.texts.at(-1)?.length} characters`)
    }
  })

  rule('the messages of different scopes do not meet, whatever characters the scope keys consist of', async stage => {
    const processes = await stage.join(3)
    const scopes: ScopeKey[] = [...STRINGS, ...VALUES]
    for (const [i, scope] of scopes.entries()) await stage.start(processes[i % 3]!, streamKey(scope, 'a'))
    const taken = await Promise.all(scopes.map((scope, i) => stage.send(processes[(i + 1) % 3]!, scope, { text: String(i) })))
    assert.deepEqual(scopes.filter((_, i) => taken[i] !== 1), [], 'scope keys whose message was not taken in exactly one process')
    await stage.exchange()
    for (const [own, { name, delivered }] of processes.entries()) {
      const expected = scopes.flatMap((scope, i) => i % 3 === own ? [[String(i), canonical(scope, 'send')]] : [])
      const actual = delivered.map(({ text, scope }) => [text, scope]).sort(([a], [b]) => Number(a) - Number(b))
      assert.deepEqual(actual, expected, `the messages that ${name} got, with their scopes`)
    }
  })

  rule('1,000 messages of a process to a scope arrive in the order of the calls, and each resolves to its own number', async stage => {
    const [one, two, three] = await stage.join(3)
    for (const process of [two, three]) await stage.start(process, streamKey('ann', process.name))
    two.takes = ({ text }) => Number(text)
    three.takes = ({ text }) => Number(text) * 10_000
    const numbers = Array.from({ length: 1_000 }, (_, i) => i)
    const own = numbers.map(i => stage.send(one, 'ann', { text: String(i) }))
    // The messages of another process may come anywhere between these messages.
    const others = numbers.slice(0, 100).map(i => stage.send(two, 'ann', { text: `0.${i + 100}` }))
    const taken = await Promise.all(own)
    await Promise.all(others)
    assert.deepEqual(taken, numbers.map(i => i * 10_001), 'the streams that took each message')
    const isOfOne = (text: string) => !text.includes('.')
    await stage.exchange()
    assert.deepEqual(two.texts, numbers.map(String), 'the messages that process 2 got')
    assert.deepEqual(three.texts.filter(isOfOne), numbers.map(String), 'the messages of process 1 that process 3 got')
    assert.deepEqual(three.texts.filter(text => !isOfOne(text)), numbers.slice(0, 100).map(i => `0.${i + 100}`), 'the messages of process 2 that process 3 got')
  })

  rule('messages of a scope are delivered in a process until its last claim in the scope is released', async stage => {
    const [one, two] = await stage.join(2)
    const holders = [await stage.start(two, streamKey('ann', 'a')), await stage.start(two, streamKey('ann', 'b')), await stage.start(two, streamKey('ann'))]
    await stage.start(two, streamKey('bob', 'a'))
    for (const holder of holders) {
      assert.equal(await stage.send(one, 'ann'), 1)
      holder.leave()
      await holder.gone
      await stage.exchange()
    }
    await stage.noLongerReaches(one, 'ann', two)
    const again = await stage.start(two, streamKey('ann', 'a'))
    assert.equal(await stage.send(one, 'ann'), 1, 'a new claim of the process')
    again.leave()
    await stage.noLongerReaches(one, 'ann', two)
    assert.equal(await stage.send(one, 'bob'), 1, 'the claim in another scope')
  })

  rule('messages follow a key that moves to another process', async stage => {
    const [one, two, three] = await stage.join(3)
    const older = await stage.start(one, streamKey('ann', 'a'))
    older.leaveAtOnce()
    const newer = await stage.start(two, streamKey('ann', 'a'))
    await stage.noLongerReaches(three, 'ann', one)
    const { length } = two.delivered
    assert.equal(await stage.send(three, 'ann'), 1)
    assert.equal(two.delivered.length, length + 1)
    newer.leaveAtOnce()
    await stage.start(one, streamKey('ann', 'a'))
    await stage.noLongerReaches(three, 'ann', two)
    assert.equal(await stage.send(three, 'ann'), 1)
  })

  rule('messages and lists do not wait for a process that has left', async stage => {
    const [one, two, three] = await stage.join(3)
    for (const process of [two, three]) {
      await stage.start(process, streamKey('ann', process.name))
      process.streams = () => [streamInfo(process.name)]
    }
    three.takes = () => 10
    await stage.leaves(two)
    assert.deepEqual([await stage.send(one, 'ann'), await stage.send(one, undefined)], [10, 10])
    assert.deepEqual(await stage.list(one, 'ann'), [streamInfo(three.name)])
    // The process may leave before or after the answer.
    const underWay = [stage.send(one, 'ann'), stage.send(one, undefined), stage.list(one, 'ann')]
    await stage.leaves(three)
    await Promise.all(underWay)
    const { length } = three.delivered
    assert.deepEqual([await stage.send(one, 'ann'), await stage.send(one, undefined)], [0, 0])
    assert.deepEqual(await stage.list(one, 'ann'), [])
    assert.deepEqual([two.delivered.length, three.delivered.length], [0, length], 'messages after the process has left')
  })

  rule('a list joins the streams that the other processes list in the scope, unchanged', async stage => {
    const [one, two, three] = await stage.join(3)
    for (const process of [one, two, three]) await stage.start(process, streamKey('ann', process.name))
    await stage.start(three, streamKey('bob', 'a'))
    assert.deepEqual(await stage.list(one, 'ann'), [], 'a process with claims may list nothing')
    const [ann, bob] = [canonical('ann', 'list'), canonical('bob', 'list')]
    const ofTwo = STRINGS.flatMap((text, i) => [streamInfo(`a${i}`, text), streamInfo(`b${i}`, 'tab', text), streamInfo(`c${i}`, undefined, text)])
    const ofThree = [streamInfo('d'), streamInfo('e', 'tab', 'name', 0), streamInfo('f', 'tab', 'name', 1_700_000_000_000.5)]
    one.streams = () => [streamInfo('own')]
    two.streams = scope => scope === ann ? ofTwo : []
    three.streams = scope => scope === ann ? ofThree : scope === bob ? [streamInfo('bob')] : []
    assert.deepEqual(await stage.list(one, 'ann'), [...ofTwo, ...ofThree].sort(byId))
    assert.deepEqual(await stage.list(one, 'bob'), [streamInfo('bob')])
    assert.deepEqual(await stage.list(three, 'bob'), [])
    assert.deepEqual(await stage.list(one, 'nobody'), [])
  })

  rule('a list of 3,000 streams is complete', async stage => {
    const [one, two, three] = await stage.join(3)
    for (const process of [two, three]) await stage.start(process, streamKey('ann', process.name))
    const infos = Array.from({ length: 3_001 }, (_, i) => streamInfo(`00000000-0000-4000-8000-${i.toString().padStart(12, '0')}`, `tab ${i}`, i % 2 === 0 ? 'name' : undefined, i))
    two.streams = () => infos.slice(0, 3_000)
    three.streams = () => infos.slice(3_000)
    const [first, second] = await Promise.all([stage.list(one, 'ann'), stage.list(one, 'ann')])
    assert.deepEqual([first.length, second.length], [3_001, 3_001])
    assert.deepEqual(first, infos)
    assert.deepEqual(second, infos, 'a second list at the same time')
  })

  rule('of the processes that mark a scope as online, the first is told so', async stage => {
    const [one, two] = await stage.join(2)
    const { scope } = (await stage.start(one, streamKey('ann', 'a'))).key
    await stage.start(two, streamKey('ann', 'b'))
    assert.deepEqual([await one.cluster.markOnline(scope, () => {}), await two.cluster.markOnline(scope, () => {}), await one.cluster.markOnline(scope, () => {})], [true, false, false])
    assert.equal(await two.cluster.markOnline(streamKey('bob').scope, () => {}), true, 'another scope')
  })

  rule('a scope is not offline while a process has a claim there, then offline once, and may come online again', async stage => {
    const [one, two] = await stage.join(2)
    const first = await stage.start(one, streamKey('ann', 'a'))
    const second = await stage.start(two, streamKey('ann', 'b'))
    const { scope } = first.key
    // Without a mark of the second process, which has a claim.
    await one.cluster.markOnline(scope, () => {})
    first.leave()
    await stage.counts(two, 'ann', 1)
    assert.equal(await one.cluster.markOffline(scope), false, 'the other process has a claim')
    second.leave()
    await stage.counts(one, 'ann', 0)
    assert.deepEqual([await two.cluster.markOffline(scope), await one.cluster.markOffline(scope)], [true, false])
    assert.equal(await one.cluster.markOnline(scope, () => {}), true)
  })

  rule('a scope is offline when the last process that has marked the scope says so', async stage => {
    const [one, two] = await stage.join(2)
    const first = await stage.start(one, streamKey('ann', 'a'))
    const second = await stage.start(two, streamKey('ann', 'b'))
    const { scope } = first.key
    for (const { cluster } of [one, two]) await cluster.markOnline(scope, () => {})
    for (const stream of [first, second]) stream.leave()
    for (const process of [one, two]) await stage.counts(process, 'ann', 0)
    assert.equal(await one.cluster.markOffline(scope), false, 'the other process had a stream a moment ago')
    assert.equal(await two.cluster.markOffline(scope), true)
  })

  rule('one process reports that the scope of a process that has left is offline, unless a process has a claim there', async stage => {
    const [one, two, three] = await stage.join(3)
    const left = await stage.start(one, streamKey(['left', '"'], 'a'))
    const kept = await stage.start(one, streamKey('kept', 'a'))
    for (const { key } of [left, kept]) await one.cluster.markOnline(key.scope, () => {})
    await stage.start(two, streamKey('kept', 'b'))
    await stage.leaves(one)
    const reported = () => [...two.offline, ...three.offline]
    await stage.until(() => reported().length > 0, `\`wentOffline\` is called for ${left}`)
    await stage.exchange()
    assert.deepEqual(reported(), [left.key.scope])
    assert.equal(await three.cluster.markOnline(kept.key.scope, () => {}), false)
  })

  rule('messages and lists of different namespaces do not meet', async stage => {
    const [one, two] = await stage.join(2)
    const [oneApart, twoApart] = [await stage.joinAgain(one, { namespace: '2' }), await stage.joinAgain(two, { namespace: '2' })]
    for (const process of [one, two, oneApart, twoApart]) {
      await stage.start(process, streamKey('ann', process.name))
      process.streams = () => [streamInfo(process.name)]
    }
    for (const [process, text] of [[one, 'together'], [oneApart, 'apart']] as const) {
      assert.equal(await stage.send(process, 'ann', { text }), 1)
      assert.equal(await stage.send(process, undefined, { text: `all ${text}` }), 1)
    }
    assert.deepEqual(await stage.list(one, 'ann'), [streamInfo(two.name)])
    assert.deepEqual(await stage.list(oneApart, 'ann'), [streamInfo(twoApart.name)])
    await stage.delivers([[one, []], [oneApart, []], [two, ['together', 'all together']], [twoApart, ['apart', 'all apart']]])
  })

  if (disconnect !== undefined) {
    rule('while the store is unreachable, a process acts as if it were alone, and warns once', async stage => {
      const [one, two] = await stage.join(2)
      await stage.start(one, streamKey('ann', 'a'))
      await disconnect(two.adapter)
      await stage.start(two, streamKey('ann', 'a'))
      await stage.start(two, streamKey('ann', 'b'))
      assert.equal(await stage.soon(two.registry.count('ann'), '`count` resolves'), 2)
      assert.equal(two.warnings, 1, 'warnings')
    })

    rule('a claim that was replaced while its process was cut off ends when the process is back', async stage => {
      const [one, two] = await stage.join(2)
      const older = await stage.start(one, streamKey('ann', 'a'))
      const reconnect = await disconnect(one.adapter)
      const newer = stage.claim(two, streamKey('ann', 'a'))
      await stage.exchange([two])
      await reconnect()
      await stage.ends(older, 'replaced')
      older.leave()
      await stage.starts(newer)
      await stage.exchange()
      assert.deepEqual(newer.reasons, [])
      await stage.counts(one, 'ann', 1)
    })

    rule('of two claims that were made on both sides of an outage, one is left', async stage => {
      const [one, two] = await stage.join(2)
      const reconnect = await disconnect(one.adapter)
      const holders = [await stage.start(one, streamKey('ann', 'a')), await stage.start(two, streamKey('ann', 'a'))]
      for (const holder of holders) holder.leaveAtOnce()
      await reconnect()
      await stage.soon(Promise.race(holders.map(({ ended }) => ended)), 'one of the claims ends')
      await stage.exchange()
      assert.deepEqual(holders.flatMap(({ reasons }) => reasons), ['replaced'])
      await stage.counts(one, 'ann', 1)
      await stage.counts(two, 'ann', 1)
    })

    rule('a claim that was made during an outage is known to the others after the outage', async stage => {
      const [one, two] = await stage.join(2)
      const reconnect = await disconnect(one.adapter)
      const older = await stage.start(one, streamKey('ann', 'a'))
      await reconnect()
      await stage.counts(two, 'ann', 1)
      const newer = stage.claim(two, streamKey('ann', 'a'))
      await stage.ends(older, 'replaced')
      older.leave()
      await stage.starts(newer)
    })

    rule('a claim that was released during an outage is forgotten after the outage', async stage => {
      const [one, two] = await stage.join(2)
      const holder = await stage.start(one, streamKey('ann', 'a'))
      const reconnect = await disconnect(one.adapter)
      holder.leave()
      await holder.gone
      await reconnect()
      await stage.counts(two, 'ann', 0)
      await stage.start(two, streamKey('ann', 'a'))
    })

    rule('an eviction by a process that cannot reach the store rejects', async stage => {
      const [one] = await stage.join(1)
      await disconnect(one.adapter)
      const own = await stage.start(one, streamKey('ann', 'a'))
      own.leaveAtOnce()
      const outcome = await stage.soon(one.registry.evict('ann').then(count => `resolved to ${count}`, () => 'rejected'), '`evict` rejects')
      assert.equal(outcome, 'rejected')
      assert.deepEqual(own.reasons, ['evicted'], 'the claims of the process itself end')
    })

    rule('a claim that is evicted while its process cannot reach the store ends after the outage', async stage => {
      const [one, two] = await stage.join(2)
      const holder = await stage.start(one, streamKey('ann', 'a'))
      const reconnect = await disconnect(one.adapter)
      // The eviction may wait for the process, or may take the process for dead.
      const eviction = two.registry.evict('ann').catch(() => {})
      await stage.exchange([two])
      await reconnect()
      await stage.ends(holder, 'evicted')
      holder.leave()
      await stage.soon(eviction, '`evict` settles')
      await stage.counts(two, 'ann', 0)
    })

    rule('a process can leave while the store is unreachable', async stage => {
      const [one] = await stage.join(1)
      await stage.start(one, streamKey('ann', 'a'))
      await disconnect(one.adapter)
      await stage.leaves(one)
    })

    rule('while the store is unreachable, a message resolves to 0 and a list is empty', async stage => {
      const [one, two] = await stage.join(2)
      for (const process of [one, two]) {
        await stage.start(process, streamKey('ann', process.name))
        process.streams = () => [streamInfo(process.name)]
      }
      await disconnect(one.adapter)
      for (let i = 0; i < 3; i++) {
        assert.deepEqual([await stage.send(one, 'ann'), await stage.send(one, undefined)], [0, 0])
        assert.deepEqual(await stage.list(one, 'ann'), [])
      }
      assert.ok(one.warnings <= 1, `a single warning, and not ${one.warnings}`)
    })

    rule('while the store is unreachable, a scope comes online, and no scope goes offline before the store is reachable again', async stage => {
      const [one, two] = await stage.join(2)
      const [left, shared] = [await stage.start(one, streamKey('left', 'a')), await stage.start(one, streamKey('shared', 'a'))]
      const kept = await stage.start(two, streamKey('shared', 'b'))
      const { scope } = kept.key
      for (const { key } of [left, shared]) await one.cluster.markOnline(key.scope, () => {})
      await two.cluster.markOnline(scope, () => {})
      const reconnect = await disconnect(one.adapter)
      assert.equal(await stage.soon(one.cluster.markOnline(streamKey('new').scope, () => {}), '`markOnline` resolves'), true)
      for (const holder of [left, shared]) {
        holder.leave()
        assert.equal(await stage.soon(one.cluster.markOffline(holder.key.scope), '`markOffline` resolves'), false)
      }
      assert.deepEqual(one.offline, [])
      await reconnect()
      await stage.until(() => one.offline.length > 0, `\`wentOffline\` is called for ${left}`)
      await stage.exchange()
      assert.deepEqual(one.offline, [left.key.scope], 'the other process has a claim in the other scope')
      kept.leave()
      await stage.counts(one, 'shared', 0)
      const reports = Number(await two.cluster.markOffline(scope))
      await stage.until(() => reports + one.offline.length === 2, `one of the processes reports scope ${scope}`)
    })

    rule('messages and lists arrive again after an outage', async stage => {
      const [one, two] = await stage.join(2)
      for (const process of [one, two]) {
        await stage.start(process, streamKey('ann', process.name))
        process.streams = () => [streamInfo(process.name)]
      }
      const reconnect = await disconnect(one.adapter)
      await stage.start(one, streamKey('bob', 'a'))
      await Promise.all([one, two].flatMap(process => ['ann', 'bob', undefined].map(scopeKey => stage.send(process, scopeKey))))
      await reconnect()
      for (const [from, to, scopeKey] of [[two, one, 'ann'], [two, one, 'bob'], [two, one, undefined], [one, two, 'ann'], [one, two, undefined]] as const) {
        await stage.reaches(from, scopeKey, to)
      }
      await stage.until(async () => (await stage.list(one, 'ann')).length === 1 && (await stage.list(two, 'ann')).length === 1, 'each process lists the stream of the other process')
      await stage.exchange()
      for (const { name, texts } of [one, two]) assert.equal(new Set(texts).size, texts.length, `no message is delivered twice in ${name}`)
    })

    rule('messages and lists do not wait for a process that is cut off', async stage => {
      const [one, two, three] = await stage.join(3)
      for (const process of [two, three]) {
        await stage.start(process, streamKey('ann', process.name))
        process.streams = () => [streamInfo(process.name)]
      }
      await disconnect(two.adapter)
      const [toAnn, toAll, list] = await Promise.all([stage.send(one, 'ann'), stage.send(one, undefined), stage.list(one, 'ann')])
      assert.deepEqual([toAnn, toAll], [1, 1], 'the streams of the process that is connected')
      assert.deepEqual(list, [streamInfo(three.name)])
      await stage.exchange([one, three])
      assert.equal(three.delivered.length, 2, 'messages in the process that is connected')
    })
  }

  await Promise.all(results)
}

/** Strings that stores and messages are known to confuse with another string of this list. */
const STRINGS = [
  '', 'a', 'A', 'a ', ' a', 'aa', 'é', 'e\u0301', '0', '00', '1', '1.0', 'true', 'null', 'undefined', '__proto__', 'constructor',
  'a:b', 'a:', ':b', 'a/b', 'a.b', 'a.*', 'a.>', '*', '>', '#', '+', '?', '[a]', '{a}', '{', '}', '%', '_', '$1', '\\', '\\\\', '"', '""', "'", "''", '`', '-', '--', ',', ';',
  'a b', 'a"b', 'a" "b', '\n', 'a\n', '\r\n', '\t', '\0', 'a\0', 'a\0b', '\u2028', '\ufeff', '\ufffd', '\ud800', '\ud801', '\udc00', 'a\ud800', '\\ud800', '😀', '😁', '\u{10ffff}', '日本',
  'x'.repeat(63), 'x'.repeat(64), 'x'.repeat(128), `${'x'.repeat(10_000)}1`, `${'x'.repeat(10_000)}2`
]

/** Scope keys that are not strings, and that look like a string of the list above or like each other. */
const VALUES: ScopeKey[] = [0, 1, 1n, true, [], {}, ['a'], [['a']], ['a', 'b'], ['a,b'], { a: 'b' }, ['{a}'], [1], ['1']]

/** The option `offlineDelay` of each process. Unit: milliseconds. */
const OFFLINE_DELAY = 200

/** A process of the cluster. */
class Process<Adapter> {
  readonly name: string
  readonly adapter: Adapter
  readonly registry: Registry
  cluster!: Cluster
  warnings = 0
  /** The messages of other processes so far. */
  readonly delivered: ClusterMessage[] = []
  /** What `deliver` returns: how many streams take a message of another process. */
  takes: (message: ClusterMessage) => number = () => 1
  /** What `list` returns: the streams of this process. */
  streams: (scope: string) => StreamInfo[] = () => []
  /** The scopes that were reported as offline, because another process has ended, or after an outage. */
  readonly offline: string[] = []

  constructor (name: string, adapter: Adapter, registry: Registry) {
    this.name = name
    this.adapter = adapter
    this.registry = registry
  }

  get texts (): string[] {
    return this.delivered.map(({ text }) => text)
  }

  // A field that is missing is as good as a field that is undefined.
  deliver ({ scope, tabId, name, except, text, retry }: ClusterMessage): number {
    const message = { scope, tabId, name, except, text, retry }
    this.delivered.push(message)
    return this.takes(message)
  }
}

interface JoinOptions {
  replaceTimeout?: number
  namespace?: string
}

type Processes<Adapter, Count extends number> = Count extends 1 ? [Process<Adapter>] : Count extends 2 ? [Process<Adapter>, Process<Adapter>] : [Process<Adapter>, Process<Adapter>, Process<Adapter>]

/** What a test has started, and how the test waits. */
class Stage<Adapter extends ClusterAdapter> {
  readonly #store: ClusterTestStore<Adapter>
  readonly #timeout: number
  readonly #members = new Set<Process<Adapter>>()
  readonly #holders: TestHolder[] = []
  // Longer than `timeout`, so that a wait that ends only because of replaceTimeout fails.
  readonly #replaceTimeout: number
  /** The first error of a method that must not throw or reject. */
  failure: Error | undefined
  #joined = 0
  #exchanges = 0
  #messages = 0

  constructor (store: ClusterTestStore<Adapter>, timeout: number) {
    this.#store = store
    this.#timeout = timeout
    this.#replaceTimeout = timeout * 3
  }

  async join<Count extends 1 | 2 | 3> (count: Count, options?: JoinOptions): Promise<Processes<Adapter, Count>> {
    const processes: Array<Process<Adapter>> = []
    for (let i = 0; i < count; i++) processes.push(await this.#join(await this.#store.adapter(), options))
    return processes as Processes<Adapter, Count>
  }

  /** Registers the plugin a second time in `process`. */
  joinAgain ({ adapter }: Process<Adapter>, options: JoinOptions): Promise<Process<Adapter>> {
    return this.#join(adapter, options)
  }

  async #join (adapter: Adapter, { replaceTimeout = this.#replaceTimeout, namespace }: JoinOptions = {}): Promise<Process<Adapter>> {
    // The registry writes warnings too, and these do not count.
    const registry = new Registry({ replaceTimeout: this.#replaceTimeout, maxStreamsPerScope: Infinity, onLimit: 'reject', offlineDelay: OFFLINE_DELAY }, logger(() => {}))
    const process = new Process(`process ${++this.#joined}`, adapter, registry)
    const joining = Promise.resolve(adapter.join({
      log: logger(() => { process.warnings++ }),
      replaceTimeout,
      ...namespace !== undefined && { namespace },
      deliver: message => process.deliver(message),
      list: scope => process.streams(scope),
      offlineDelay: OFFLINE_DELAY,
      observesScopes: () => true,
      wentOffline: scope => { process.offline.push(scope) }
    }))
    process.cluster = registry.cluster = this.#guard(await this.soon(joining, `\`join\` of ${process.name} resolves`))
    this.#members.add(process)
    return process
  }

  /** Passes the calls to `cluster` on, and notes a method that throws or rejects: the registry relies on the contract, and would hide the error. */
  #guard (cluster: Cluster): Cluster {
    const note = (method: string, error: unknown) => {
      this.failure ??= new assert.AssertionError({ message: `\`${method}\` must not throw or reject: ${String(error)}` })
      this.failure.cause ??= error
    }
    return {
      claim (claim) {
        try {
          return cluster.claim(claim)?.catch(error => note('claim', error))
        } catch (error) {
          note('claim', error)
        }
      },
      release (claim) {
        try {
          cluster.release(claim)
        } catch (error) {
          note('release', error)
        }
      },
      async evict (scope, tabId) {
        return await cluster.evict(scope, tabId)
      },
      async count (scope) {
        try {
          return await cluster.count(scope)
        } catch (error) {
          note('count', error)
          return 0
        }
      },
      maxMessageBytes: cluster.maxMessageBytes,
      async send (message) {
        try {
          return await cluster.send(message)
        } catch (error) {
          note('send', error)
          return 0
        }
      },
      async list (scope) {
        try {
          return await cluster.list(scope)
        } catch (error) {
          note('list', error)
          return []
        }
      },
      async markOnline (scope, onlineAgain) {
        try {
          return await cluster.markOnline(scope, onlineAgain)
        } catch (error) {
          note('markOnline', error)
          return true
        }
      },
      async markOffline (scope) {
        try {
          return await cluster.markOffline(scope)
        } catch (error) {
          note('markOffline', error)
          return true
        }
      },
      async leave () {
        try {
          await cluster.leave()
        } catch (error) {
          note('leave', error)
        }
      }
    }
  }

  /** Claims `key` in `process`. */
  claim ({ name, registry }: Process<Adapter>, key: StreamKey): TestHolder {
    const holder = new TestHolder(key, name)
    holder.started = registry.replaceAndRegister(key, holder).then(started => { holder.hasStarted = started; return started })
    this.#holders.push(holder)
    return holder
  }

  /** Claims `key` in `process`, and waits for the start. */
  async start (process: Process<Adapter>, key: StreamKey): Promise<TestHolder> {
    const holder = this.claim(process, key)
    await this.starts(holder)
    return holder
  }

  async starts (holder: TestHolder): Promise<void> {
    assert.equal(await this.settles(holder), true, `${holder} starts, and was ended instead`)
  }

  /** Waits until `holder` starts, or has ended before the start. Returns `true` for a start. */
  settles (holder: TestHolder): Promise<boolean> {
    return this.soon(holder.started, `${holder} starts`)
  }

  async ends (holder: TestHolder, reason: CloseReason): Promise<void> {
    assert.equal(await this.soon(holder.ended, `\`end('${reason}')\` is called for ${holder}`), reason)
  }

  async leaves (process: Process<Adapter>): Promise<void> {
    this.#members.delete(process)
    await this.soon(process.cluster.leave(), `\`leave\` of ${process.name} resolves`)
  }

  /** Waits until `process` counts `expected` claims: a release need not be known everywhere at once. */
  async counts ({ name, registry }: Process<Adapter>, scope: ScopeKey, expected: number): Promise<void> {
    let count: number | undefined
    await this.until(async () => {
      count = await this.soon(registry.count(scope), '`count` resolves')
      return count === expected
    }, () => `${name} counts ${expected} claims in scope ${show(scope)}, and not ${count}`)
  }

  /** Sends a message of `process` to a scope, or to all scopes if `scopeKey` is `undefined`. The default text differs each time. */
  async send ({ name, cluster }: Process<Adapter>, scopeKey: ScopeKey | undefined, message: Partial<ClusterMessage> = {}): Promise<number> {
    const scope = scopeKey === undefined ? {} : { scope: canonical(scopeKey, 'send') }
    const sending = cluster.send({ text: `message ${++this.#messages}`, ...message, ...scope })
    return await this.soon(sending, `\`send\` of ${name} to ${target(scopeKey)} resolves`)
  }

  /** Resolves to what `list` of `process` resolves to, sorted by id. */
  async list ({ name, cluster }: Process<Adapter>, scopeKey: ScopeKey): Promise<StreamInfo[]> {
    const infos = await this.soon(cluster.list(canonical(scopeKey, 'list')), `\`list\` of ${name} for scope ${show(scopeKey)} resolves`)
    return infos.map(({ id, tabId, name, openedAt }) => ({ id, tabId, name, openedAt })).sort(byId)
  }

  /** Waits until each process has got its texts, and checks that no process gets more texts. */
  async delivers (expected: ReadonlyArray<readonly [Process<Adapter>, string[]]>): Promise<void> {
    for (const [process, texts] of expected) {
      await this.until(() => process.texts.length >= texts.length, () => `${process.name} gets ${texts.length} messages, and not ${process.texts.length}`)
    }
    await this.exchange()
    for (const [{ name, texts }, expectedTexts] of expected) assert.deepEqual(texts, expectedTexts, `the messages that ${name} got`)
  }

  /** Sends messages of `from` until a stream of `to` takes a message. */
  async reaches (from: Process<Adapter>, scopeKey: ScopeKey | undefined, to: Process<Adapter>): Promise<void> {
    const { length } = to.delivered
    await this.until(async () => await this.send(from, scopeKey) === 1 && to.delivered.length > length, `a message of ${from.name} to ${target(scopeKey)} reaches ${to.name}`)
  }

  /** Sends messages of `from` until `to` gets no message any longer. The process need not know of a release at once. */
  async noLongerReaches (from: Process<Adapter>, scopeKey: ScopeKey, to: Process<Adapter>): Promise<void> {
    await this.until(async () => {
      const { length } = to.delivered
      await this.send(from, scopeKey)
      await this.exchange()
      return to.delivered.length === length
    }, `no message of ${from.name} to ${target(scopeKey)} reaches ${to.name}`)
  }

  async until (condition: () => boolean | Promise<boolean>, what: string | (() => string)): Promise<void> {
    const from = performance.now()
    while (!await condition()) {
      if (performance.now() - from > this.#timeout) this.#fail(typeof what === 'string' ? what : what())
      await pause(5)
    }
  }

  /** Waits for `promise`, but not for ever. */
  async soon<T> (promise: Promise<T>, what: string): Promise<T> {
    if (!await within(promise, this.#timeout)) this.#fail(what)
    return await promise
  }

  #fail (what: string): never {
    assert.fail(`expected within ${this.#timeout} ms: ${what}`)
  }

  /**
   * Moves a key of another scope between all processes. Whatever the processes sent each other before has most likely arrived
   * afterwards, so a test can say that something did not happen.
   */
  async exchange (processes: Iterable<Process<Adapter>> = this.#members): Promise<void> {
    const key = streamKey(['exchange', ++this.#exchanges], 'a')
    const all = [...processes]
    for (const process of [...all, ...all]) (await this.start(process, key)).leaveAtOnce()
  }

  async tearDown (): Promise<void> {
    for (const holder of this.#holders) holder.leave()
    await Promise.all(this.#holders.map(({ gone }) => gone))
    try {
      await Promise.all([...this.#members].map(process => this.leaves(process)))
    } finally {
      await this.#store.tearDown?.()
    }
  }
}

/** A holder that is gone when the test says so. */
class TestHolder implements Holder {
  readonly key: StreamKey
  readonly reasons: CloseReason[] = []
  /** Resolves to `true` when the holder starts, or to `false` if the holder has ended before. */
  started!: Promise<boolean>
  hasStarted = false
  readonly #process: string
  readonly #ended = deferred<CloseReason>()
  readonly #gone = deferred<void>()

  constructor (key: StreamKey, process: string) {
    this.key = key
    this.#process = process
  }

  get ended (): Promise<CloseReason> {
    return this.#ended.promise
  }

  get gone (): Promise<void> {
    return this.#gone.promise
  }

  close (reason: CloseReason): void {
    this.reasons.push(reason)
    this.#ended.resolve(reason)
  }

  leave (): void {
    this.#gone.resolve()
  }

  /** From now on the holder is gone as soon as it is told to end. */
  leaveAtOnce (): void {
    this.ended.then(() => this.leave())
  }

  toString (): string {
    return `the claim of ${this.#process} on scope ${show(this.key.scopeKey)}, slot ${show(this.key.slot)}`
  }
}

function pause (milliseconds: number): Promise<void> {
  return new Promise(resolve => { setTimeout(resolve, milliseconds) })
}

function logger (onWarning: () => void): FastifyBaseLogger {
  const ignore = () => {}
  const log = { level: 'info', trace: ignore, debug: ignore, info: ignore, warn: onWarning, error: ignore, fatal: ignore, silent: ignore, child: () => log }
  return log as unknown as FastifyBaseLogger
}

function target (scopeKey: ScopeKey | undefined): string {
  return scopeKey === undefined ? 'all scopes' : `scope ${show(scopeKey)}`
}

function streamInfo (id: string, tabId?: string, name?: string, openedAt = 1_700_000_000_000): StreamInfo {
  return { id, tabId, name, openedAt }
}

function byId (a: StreamInfo, b: StreamInfo): number {
  return a.id < b.id ? -1 : 1
}

function show (value: unknown): string {
  const text = JSON.stringify(value, (_, item) => typeof item === 'bigint' ? `${item}n` : item)
  return text.length > 60 ? `${text.slice(0, 60)}...` : text
}
