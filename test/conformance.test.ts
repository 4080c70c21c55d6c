// The published tests of the contract `Cluster`: an adapter that keeps the contract passes in every runner, and for each rule there are
// faults in an adapter that only fail the tests because of that rule.
import { setImmediate as turn } from 'node:timers/promises'
import FakeTimers from '@sinonjs/fake-timers'
import t from 'tap'
import { testCluster } from '../lib/conformance.ts'
import { startChild } from './kit/child.ts'
import { conformance } from './kit/conformance.ts'
import { disconnect, hop, memoryCluster, MemoryMember, MemoryStore, traffic, type Entry } from './kit/memory-cluster.ts'
import type { ClusterClaim, StreamKey } from '../lib/index.ts'

type Reason = 'replaced' | 'evicted'

const NEVER = new Promise<never>(() => {})
const evictedScopes = new WeakMap<MemoryStore, Set<string>>()

// Faults that break more than one rule.

/** Reads the previous claim and writes the new claim in two steps. */
class TwoSteps extends MemoryMember {
  override async make (entry: Entry) {
    const previous = this.store.entries.get(entry.id)
    await hop()
    this.swap(entry)
    if (previous !== undefined && previous.member !== this) await this.endElsewhere(previous, 'replaced')
  }
}

class ForgetsToEnd extends MemoryMember {
  override async endElsewhere () {}
}

class NoReconciliation extends MemoryMember {
  override reconcile () {}
}

class NoRemoval extends MemoryMember {
  override remove () {}
}

class CountsItself extends MemoryMember {
  override others (scope: string) {
    return [...this.store.entries.values()].filter(({ scopeId }) => scopeId === this.scopeId(scope))
  }
}

/** Changes what the store takes for a scope. */
const scopes = (change: (scope: string) => string) => class extends MemoryMember {
  override scopeId (scope: string) { return super.scopeId(change(scope)) }
}

/** Changes what the store takes for a tab id and a name. */
const tabs = (change: (text: string) => string) => class extends MemoryMember {
  override idOf (key: StreamKey) {
    return super.idOf({ ...key, slot: JSON.stringify([change(key.tabId!), key.name === undefined ? undefined : change(key.name)]) })
  }

  override isOfTab (key: StreamKey, tabId: string | undefined) {
    return super.isOfTab({ ...key, tabId: change(key.tabId!) }, tabId === undefined ? undefined : change(tabId))
  }
}

/** Changes which claims the eviction of a tab ends. */
const evicts = (isOfTab: (key: StreamKey, tabId: string) => boolean) => class extends MemoryMember {
  override isOfTab (key: StreamKey, tabId: string | undefined) { return tabId === undefined || isOfTab(key, tabId) }
}

/** For each rule the faults that the rule must notice. */
const FAULTS: Record<string, Record<string, typeof MemoryMember>> = {
  'a claim on a free key starts at once and is not ended': {
    'ends every claim': class extends MemoryMember {
      override async make (entry: Entry) {
        await super.make(entry)
        entry.claim.end('replaced')
      }
    },
    'never resolves a claim': class extends MemoryMember {
      override make () { return NEVER }
    },
    'rejects a claim': class extends MemoryMember {
      override async make () { throw new Error('the store refuses') }
    },
    'throws in claim': class extends MemoryMember {
      override claim (): undefined { throw new Error('the store refuses') }
    }
  },
  'a newer claim of another process ends the previous claim as replaced': {
    'does not end the previous claim': ForgetsToEnd,
    'ends the previous claim as evicted': class extends MemoryMember {
      override endElsewhere (entry: Entry) { return super.endElsewhere(entry, 'evicted') }
    },
    'ends the newer claim': class extends MemoryMember {
      override async make (entry: Entry) {
        await hop()
        if (this.store.entries.has(entry.id)) entry.claim.end('replaced')
        else this.swap(entry)
      }
    },
    'ends both claims': class extends MemoryMember {
      override async make (entry: Entry) {
        await super.make(entry)
        if (entry.claim.key.scope.includes('ann') && this.store.orders > 1) setImmediate(() => entry.claim.end('replaced'))
      }
    }
  },
  'a newer claim starts when the previous claim is released, and not before': {
    'does not wait for the release': class extends MemoryMember {
      override async onEnd (claim: ClusterClaim, reason: Reason) { claim.end(reason) }
    },
    'never notices the release': class extends MemoryMember {
      override async onEnd (claim: ClusterClaim, reason: Reason) {
        claim.end(reason)
        return await NEVER
      }
    }
  },
  'a claim that is released as soon as it is ended does not delay its successor': {
    'looks the claim up only after the end': class extends MemoryMember {
      override async onEnd (claim: ClusterClaim, reason: Reason) {
        claim.end(reason)
        await hop()
        await (this.own.has(claim) ? claim.released : NEVER)
      }
    }
  },
  'a successor also waits for what its predecessor was waiting for': {
    'does not wait for a claim that has not started': class extends MemoryMember {
      readonly started = new Set<ClusterClaim>()
      override async make (entry: Entry) {
        await super.make(entry)
        this.started.add(entry.claim)
      }

      override async onEnd (claim: ClusterClaim, reason: Reason) {
        if (this.started.has(claim)) return await super.onEnd(claim, reason)
        claim.end(reason)
      }
    }
  },
  'a key whose claim was released is free': {
    'does not remove a released claim': NoRemoval
  },
  'a claim that is released while it is being made leaves nothing behind': {
    'confirms a claim after the release': class extends MemoryMember {
      override async make (entry: Entry) {
        await super.make(entry)
        hop().then(() => this.swap(entry))
      }
    }
  },
  'the release of a replaced claim does not release its successor': {
    'removes whatever claim the key has': class extends MemoryMember {
      override remove ({ id }: Entry) { this.store.entries.delete(id) }
    }
  },
  'the claims of a process count in the order of the calls': {
    'sends later claims earlier': class extends MemoryMember {
      override async make (entry: Entry) {
        for (let i = entry.order; i < 10; i++) await hop()
        await super.make(entry)
      }
    }
  },
  'a key can move between processes again and again': {
    'takes a second replacement of a process for a repeated message': class extends MemoryMember {
      readonly known = new Set<MemoryMember>()
      override async endElsewhere (entry: Entry, reason: Reason) {
        if (this.known.has(entry.member)) return
        this.known.add(entry.member)
        await super.endElsewhere(entry, reason)
      }
    }
  },
  'of 100 claims that race in three processes exactly one is left, and no two run at the same time': {
    'swaps claims in two steps': TwoSteps,
    'does not wait for the release': class extends MemoryMember {
      override async onEnd (claim: ClusterClaim, reason: Reason) { claim.end(reason) }
    }
  },
  'claims that race on many keys leave one on each': {
    'swaps claims in two steps': TwoSteps
  },
  'claims without a tab id never replace each other, even if two processes give them the same slot': {
    'compares scope and slot alone': class extends MemoryMember {
      override idOf ({ scope, slot }: StreamKey) { return JSON.stringify([scope, slot]) }
    }
  },
  'a process that joins later finds the claims of the others': {
    'knows only the claims since it joined': class extends MemoryMember {
      readonly joinedAt = this.store.orders
      override others (scope: string) { return super.others(scope).filter(({ order }) => order > this.joinedAt) }
    }
  },
  'a process that leaves is not waited for': {
    'waits for a process that has left': class extends MemoryMember {
      override async leave () { for (const entry of this.own.values()) this.remove(entry) }
    }
  },
  'a process that leaves takes its claims along, and only those': {
    'leaves its claims behind': class extends MemoryMember {
      override async leave () { this.left.resolve() }
    },
    'removes all claims': class extends MemoryMember {
      override async leave () { this.store.entries.clear() }
    },
    'rejects leave': class extends MemoryMember {
      override async leave () { throw new Error('the store refuses') }
    }
  },
  'a release after the process has left is ignored': {
    'throws in release': class extends MemoryMember {
      override release (claim: ClusterClaim) {
        if (!this.own.has(claim)) throw new Error('the process has left')
        super.release(claim)
      }
    },
    'removes whatever claim the key has': class extends MemoryMember {
      override async leave () { this.left.resolve() }
      override remove ({ id }: Entry) { this.store.entries.delete(id) }
    }
  },
  'an eviction ends every claim that the processes have in the scope, and no claim of another scope': {
    'evicts nothing': class extends MemoryMember {
      override async evict () { return 0 }
    },
    'evicts the claims of one process': class extends MemoryMember {
      override others (scope: string) { return super.others(scope).slice(0, 1) }
    },
    'counts its own claims as evicted': CountsItself,
    'ends the claims as replaced': class extends MemoryMember {
      override endElsewhere (entry: Entry) { return super.endElsewhere(entry, 'replaced') }
    },
    'evicts every scope': class extends MemoryMember {
      override others () { return [...this.store.entries.values()].filter(({ member }) => member !== this) }
    }
  },
  'an eviction resolves when every ended claim is released, and not before': {
    'does not wait for the releases': class extends MemoryMember {
      override async onEnd (claim: ClusterClaim, reason: Reason) { claim.end(reason) }
    },
    'waits for the first release': class extends MemoryMember {
      override async evict (scope: string) {
        const evicted = this.others(scope)
        await Promise.race(evicted.map(entry => this.endElsewhere(entry, 'evicted')))
        return evicted.length
      }
    }
  },
  'an eviction rejects after replaceTimeout if a claim is not released': {
    'waits without a limit': class extends MemoryMember {
      override async evict (scope: string) {
        const evicted = this.others(scope)
        await Promise.all(evicted.map(entry => this.endElsewhere(entry, 'evicted')))
        return evicted.length
      }
    },
    'counts a claim that is not released': class extends MemoryMember {
      override async evict (scope: string) {
        const evicted = this.others(scope)
        return await super.evict(scope).catch(() => evicted.length)
      }
    }
  },
  'an eviction does not end a claim that is made after the eviction': {
    'keeps on evicting the scope': class extends MemoryMember {
      override async evict (scope: string, tabId?: string) {
        evictedScopes.set(this.store, new Set(evictedScopes.get(this.store)).add(scope))
        return await super.evict(scope, tabId)
      }

      override async make (entry: Entry) {
        await super.make(entry)
        if (evictedScopes.get(this.store)?.has(entry.claim.key.scope) === true) entry.claim.end('evicted')
      }
    }
  },
  'a successor waits for an evicted claim that is not released yet': {
    'forgets a claim when the eviction begins': class extends MemoryMember {
      override async endElsewhere (entry: Entry, reason: Reason) {
        if (reason === 'evicted') this.remove(entry)
        await super.endElsewhere(entry, reason)
      }
    }
  },
  'an eviction of a tab ends the claims of the tab under every name, and no claim of another tab': {
    'evicts the whole scope': evicts(() => true),
    'evicts tabs that begin with the tab id': evicts((key, tabId) => key.tabId?.startsWith(tabId) === true),
    'evicts names that equal the tab id': evicts((key, tabId) => key.tabId === tabId || key.name === tabId),
    'evicts claims without a name only': evicts((key, tabId) => key.tabId === tabId && key.name === undefined),
    'evicts claims without a tab id too': evicts((key, tabId) => key.tabId === tabId || key.tabId === undefined)
  },
  'an eviction of nothing resolves to 0': {
    'takes an unknown tab for the whole scope': class extends MemoryMember {
      override async evict (scope: string, tabId?: string) {
        return await super.evict(scope, tabId) || await super.evict(scope)
      }
    },
    'never resolves': class extends MemoryMember {
      override async evict (scope: string, tabId?: string) { return await super.evict(scope, tabId) || await NEVER }
    }
  },
  'an eviction reaches 500 claims of a scope': {
    'reads the first page only': class extends MemoryMember {
      override others (scope: string) { return super.others(scope).slice(0, 100) }
    },
    'evicts the first page only': class extends MemoryMember {
      override async evict (scope: string) {
        const evicted = this.others(scope).slice(0, 100)
        await Promise.all(evicted.map(entry => this.endElsewhere(entry, 'evicted')))
        return evicted.length
      }
    }
  },
  'a key counts once, wherever its claim was made': {
    'counts its own claims': CountsItself,
    'counts every scope': class extends MemoryMember {
      override async count () { return this.store.entries.size }
    },
    'counts replaced claims': class extends MemoryMember {
      override swap (entry: Entry) {
        const previous = super.swap(entry)
        if (previous !== undefined && previous.member !== this) this.store.entries.set(`${entry.id} before`, previous)
        return previous
      }
    },
    'counts nothing': class extends MemoryMember {
      override async count () { return 0 }
    },
    'rejects count': class extends MemoryMember {
      override async count (): Promise<never> { throw new Error('the store refuses') }
    }
  },
  'namespaces do not meet, and a namespace is the same in every process': {
    'ignores the namespace': class extends MemoryMember {
      override scopeId (scope: string) { return scope }
    },
    'evicts in every namespace': class extends MemoryMember {
      override async evict (scope: string) {
        const evicted = [...this.store.entries.values()].filter(({ claim: { key }, member }) => key.scope === scope && member !== this)
        await Promise.all(evicted.map(entry => this.endElsewhere(entry, 'evicted')))
        return evicted.length
      }
    },
    'has a namespace for each process': class extends MemoryMember {
      readonly number = Math.random()
      override scopeId (scope: string) { return this.context.namespace === undefined ? scope : `${this.number} ${scope}` }
    }
  },
  'a namespace that leaves does not disturb the other namespaces of the process': {
    'leaves with all namespaces': class extends MemoryMember {
      override async leave () {
        for (const sibling of this.siblings) for (const entry of sibling.own.values()) this.remove(entry)
      }
    },
    'closes the connection of all namespaces': class extends MemoryMember {
      override async leave () {
        await super.leave()
        for (const sibling of this.siblings) sibling.onEnd = () => NEVER
      }
    }
  },
  'different scope keys do not meet, whatever characters they consist of': {
    'ignores case': scopes(scope => scope.toLowerCase()),
    'ignores quotes, and so the difference between 1 and "1"': scopes(scope => scope.replaceAll('"', '')),
    'ignores white space': scopes(scope => scope.replaceAll(/\s/g, '')),
    'normalises Unicode': scopes(scope => scope.normalize()),
    'keeps Latin-1 only': scopes(scope => Buffer.from(scope, 'latin1').toString()),
    'cuts long scopes': scopes(scope => scope.slice(0, 1_000)),
    'replaces what may not be in a subject': scopes(scope => scope.replaceAll(/[.*>]/g, '_')),
    'replaces braces': scopes(scope => scope.replaceAll(/[{}]/g, ''))
  },
  'different tab ids and names do not meet, whatever characters they consist of': {
    'ignores case': tabs(text => text.toLowerCase()),
    'ignores white space at the end': tabs(text => text.trimEnd()),
    'normalises Unicode': tabs(text => text.normalize()),
    'encodes lone surrogates as UTF-8': tabs(text => Buffer.from(text).toString()),
    'ends a text at NUL': tabs(text => text.split('\0')[0]!),
    'cuts long texts': tabs(text => text.slice(0, 64)),
    'compares numbers': tabs(text => Number.isNaN(Number(text)) ? text : String(Number(text))),
    'unescapes backslashes': tabs(text => text.replaceAll('\\\\', '\\')),
    'joins tab id and name with a colon': class extends MemoryMember {
      override idOf ({ scope, tabId, name }: StreamKey) { return `${this.scopeId(scope)} ${tabId}${name === undefined ? '' : `:${name}`}` }
    },
    'ignores the name': class extends MemoryMember {
      override idOf (key: StreamKey) { return super.idOf({ ...key, slot: JSON.stringify(key.tabId) }) }
    },
    'takes an empty tab id for no tab id': class extends MemoryMember {
      override isOfTab (key: StreamKey, tabId: string | undefined) { return super.isOfTab(key, tabId || undefined) }
    },
    'takes a tab id for a pattern': evicts((key, tabId) => key.tabId === tabId || (tabId === '*' && key.tabId !== undefined))
  },
  'while the store is unreachable, a process acts as if it were alone, and warns once': {
    'says nothing': class extends MemoryMember {
      override goAway () { this.isAway = true }
    },
    'warns each time': class extends MemoryMember {
      override async make (entry: Entry) {
        if (this.isAway) this.context.log.warn('the store is unreachable')
        await super.make(entry)
      }
    },
    'waits for the store to make a claim': class extends MemoryMember {
      override async make (entry: Entry) { await (this.isAway ? NEVER : super.make(entry)) }
    },
    'rejects count': class extends MemoryMember {
      override async count (scope: string) {
        if (this.isAway) throw new Error('the store is unreachable')
        return await super.count(scope)
      }
    }
  },
  'a claim that was replaced while its process was cut off ends when the process is back': {
    'loses messages and does not reconcile': class extends NoReconciliation {
      override async onEnd (claim: ClusterClaim, reason: Reason) {
        if (!this.isAway) await super.onEnd(claim, reason)
      }
    },
    'takes the key back': class extends MemoryMember {
      override async onEnd (claim: ClusterClaim, reason: Reason) {
        if (!this.isAway) await super.onEnd(claim, reason)
      }

      override reconcile () {
        for (const entry of this.own.values()) {
          const stored = this.swap(entry)
          if (stored !== undefined && stored.member !== this) this.endElsewhere(stored, 'replaced')
        }
      }
    }
  },
  'of two claims that were made on both sides of an outage, one is left': {
    'does not reconcile': NoReconciliation,
    'ends both claims': class extends MemoryMember {
      override reconcile () {
        for (const entry of this.own.values()) {
          entry.claim.end('replaced')
          const stored = this.store.entries.get(entry.id)
          if (stored !== undefined) this.endElsewhere(stored, 'replaced')
        }
      }
    }
  },
  'a claim that was made during an outage is known to the others after the outage': {
    'does not reconcile': NoReconciliation
  },
  'a claim that was released during an outage is forgotten after the outage': {
    'does not reconcile': NoReconciliation
  },
  'an eviction by a process that cannot reach the store rejects': {
    'resolves to 0': class extends MemoryMember {
      override async evict (scope: string) { return this.isAway ? 0 : await super.evict(scope) }
    },
    'waits for the store to evict': class extends MemoryMember {
      override async evict (scope: string, tabId?: string) { return await (this.isAway ? NEVER : super.evict(scope, tabId)) }
    }
  },
  'a claim that is evicted while its process cannot reach the store ends after the outage': {
    'loses messages': class extends MemoryMember {
      override async onEnd (claim: ClusterClaim, reason: Reason) {
        if (!this.isAway) await super.onEnd(claim, reason)
      }
    }
  },
  'a process can leave while the store is unreachable': {
    'waits for the store': class extends MemoryMember {
      override async leave () { if (this.isAway) await NEVER }
    },
    'rejects leave': class extends MemoryMember {
      override async leave () { if (this.isAway) throw new Error('the store is unreachable') }
    }
  }
}

interface Rule { title: string, run: () => Promise<void> }

/** Collects the tests and runs none, as the `it` of Mocha and Vitest does. */
async function collect (Member = MemoryMember, build = () => new MemoryStore(), tearDown?: () => void): Promise<Rule[]> {
  const rules: Rule[] = []
  await testCluster({
    test (title, run) { rules.push({ title, run }) },
    build () {
      const store = build()
      return { adapter: () => memoryCluster(store, Member), ...tearDown !== undefined && { tearDown } }
    },
    disconnect,
    timeout: 1_000
  })
  return rules
}

/** Runs a test in virtual time: if no message is on the way, the next timer is due. Resolves to the error of the test. */
async function errorOf (run: () => Promise<void>): Promise<Error | undefined> {
  const clock = FakeTimers.install({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
  const outcome = run().then(() => ({ error: undefined }), (error: Error) => ({ error }))
  const isOver = { value: false }
  outcome.finally(() => { isOver.value = true })
  try {
    while (!isOver.value) {
      const before = traffic.messages
      for (let i = 0; i < 10; i++) await turn()
      if (!isOver.value && traffic.messages === before) clock.next()
    }
  } finally {
    clock.uninstall()
  }
  return (await outcome).error
}

const rules = await collect()
const titles = rules.map(({ title }) => title)

t.test('an adapter that keeps the contract passes, as tests of tap', async t => {
  await conformance(t, {
    build () {
      const store = new MemoryStore()
      return { adapter: () => memoryCluster(store) }
    },
    disconnect
  })
})

t.test('it passes with node:test, at the top level and within a test', async t => {
  const child = startChild(t, '--import=./test/kit/strip-types.js', {}, [], ['--test-reporter=tap', 'test/kit/conformance-in-node-test.ts'])
  const lines: string[] = []
  child.lines.on('line', line => { lines.push(line) })
  t.strictSame(await child.exited, [0, null], child.errors())
  const passed = (indent: string) => lines.filter(line => line.startsWith(`${indent}ok `)).length
  t.equal(passed(''), titles.length - 8 + 1, 'without `disconnect` the eight rules about an outage are not registered')
  t.equal(passed('    '), titles.length)
  t.strictSame(lines.filter(line => /not ok|# SKIP|# TODO/.test(line)), [])
})

t.test('it passes with a runner that collects tests and runs them later', async t => {
  let stores = 0
  let tornDown = 0
  const rules = await collect(MemoryMember, () => { stores++; return new MemoryStore() }, () => { tornDown++ })
  // Mocha passes a callback to functions with a parameter, and waits for the callback.
  t.strictSame(rules.filter(({ run }) => run.length > 0), [])
  for (const { title, run } of rules) t.equal(await errorOf(run), undefined, title)
  t.strictSame([stores, tornDown], [titles.length, titles.length], 'each test has a store of its own')
})

t.test('for each rule there is a fault', async t => {
  t.strictSame(Object.keys(FAULTS), titles)
})

for (const [title, faults] of Object.entries(FAULTS)) {
  t.test(title, async t => {
    for (const [fault, Member] of Object.entries(faults)) {
      let tornDown = 0
      const rule = (await collect(Member, undefined, () => { tornDown++ })).find(rule => rule.title === title)!
      const error = await errorOf(rule.run)
      t.not(error, undefined, `an adapter that ${fault} fails`)
      t.comment(`${fault}: ${error?.message.split('\n')[0]}`)
      t.equal(tornDown, 1, 'the store is torn down after a failure')
    }
  })
}
