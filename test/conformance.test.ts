// The published tests of the contract `Cluster`: an adapter that keeps the contract passes in every runner. For each rule there are
// faults in an adapter that fail only the tests of that rule.
import { setImmediate as turn } from 'node:timers/promises'
import FakeTimers from '@sinonjs/fake-timers'
import t from 'tap'
import { testCluster } from '../lib/conformance.ts'
import { startChild } from './kit/child.ts'
import { conformance } from './kit/conformance.ts'
import { disconnect, hop, memoryCluster, MemoryMember, MemoryStore, traffic, type Entry } from './kit/memory-cluster.ts'
import type { ClusterClaim, ClusterMessage, StreamInfo, StreamKey } from '../lib/index.ts'

type Reason = 'replaced' | 'evicted'

const NEVER = new Promise<never>(() => {})
const evictedScopes = new WeakMap<MemoryStore, Set<string>>()
const firstHolders = new WeakMap<MemoryStore, Map<string, MemoryMember>>()
const scopeHolders = new WeakMap<MemoryStore, Map<string, Set<MemoryMember>>>()

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

/** Changes the scope under which the store finds a claim. */
const scopes = (change: (scope: string) => string) => class extends MemoryMember {
  override scopeId (scope: string) { return super.scopeId(change(scope)) }
}

/** Changes the tab id and the name under which the store finds a claim. */
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

/** Changes messages on the way. */
const messages = (change: (message: ClusterMessage) => ClusterMessage) => class extends MemoryMember {
  override deliver (message: ClusterMessage) { return super.deliver(change(message)) }
}

/** Changes every text of a message on the way. */
const texts = (change: (text: string) => string) => messages(message => ({ ...message, text: change(message.text) }))

/** Changes the lists of a process on the way. */
const lists = (change: (infos: StreamInfo[]) => StreamInfo[]) => class extends MemoryMember {
  override listOwn (scope: string) { return change(super.listOwn(scope)) }
}

/** Changes which members get a message to `scope`. */
const receivers = (change: (receivers: MemoryMember[], sender: MemoryMember, scope: string | undefined) => MemoryMember[]) => class extends MemoryMember {
  override receivers (scope: string | undefined) { return change(super.receivers(scope), this, scope) }
}

/** The other members, in all namespaces. */
const everybodyBut = (sender: MemoryMember) => [...sender.store.members].filter(member => member !== sender)

/** Changes the scope that a message names. */
const targets = (change: (scope: string) => string) => receivers((members, sender, scope) =>
  everybodyBut(sender).filter(({ own }) => [...own.keys()].some(({ key }) => change(key.scope) === change(scope!))))

/** Changes what happens to the answer of a process that cannot answer. */
const unanswered = (answer: () => Promise<never>) => class extends MemoryMember {
  override async ask<T> (member: MemoryMember, question: () => T): Promise<T> {
    await hop()
    if (this.isAway || member.isAway || !this.store.members.has(member)) return await answer()
    return question()
  }
}

class WaitsForAnswers extends unanswered(() => NEVER) {}

class Rejects extends unanswered(async () => { throw new Error('the store is unreachable') }) {}

/** Remembers which members ever had a claim in a scope. */
class ForgetsNoReceiver extends MemoryMember {
  override swap (entry: Entry) {
    const holders = scopeHolders.get(this.store) ?? new Map<string, Set<MemoryMember>>()
    scopeHolders.set(this.store, holders.set(entry.scopeId, (holders.get(entry.scopeId) ?? new Set()).add(this)))
    return super.swap(entry)
  }

  override receivers (scope: string | undefined) {
    if (scope === undefined) return super.receivers(scope)
    return [...scopeHolders.get(this.store)?.get(this.scopeId(scope)) ?? []].filter(member => member !== this)
  }
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
  'a message is delivered once in every other process that has claims in the scope': {
    'delivers nothing': receivers(() => []),
    'delivers in one process': receivers(members => members.slice(0, 1)),
    'delivers once for each claim': receivers((members, sender, scope) => sender.others(scope!).map(({ member }) => member)),
    'sends each message twice': class extends MemoryMember {
      override async send (message: ClusterMessage) {
        await super.send(message)
        return await super.send(message)
      }
    },
    'throws in send': class extends MemoryMember {
      override send (): never { throw new Error('the store refuses') }
    },
    'rejects send': class extends MemoryMember {
      override async send (message: ClusterMessage): Promise<never> {
        await super.send(message)
        throw new Error('the store refuses')
      }
    }
  },
  'a message resolves to the number of streams that took the message in the other processes': {
    'counts processes': class extends MemoryMember {
      override async send (message: ClusterMessage) {
        await super.send(message)
        return this.receivers(message.scope).length
      }
    },
    'counts claims': class extends MemoryMember {
      override async send (message: ClusterMessage) {
        await super.send(message)
        return message.scope === undefined ? this.store.entries.size : this.others(message.scope).length
      }
    },
    'resolves to the first answer': class extends MemoryMember {
      override async send (message: ClusterMessage) {
        return await Promise.race(this.receivers(message.scope).map(member => this.ask(member, () => member.deliver(message), 0)))
      }
    },
    'does not wait for answers': class extends MemoryMember {
      override async send (message: ClusterMessage) {
        super.send(message)
        return 0
      }
    },
    'takes 0 for a missing answer': class extends MemoryMember {
      override deliver (message: ClusterMessage): any { return super.deliver(message) || NEVER }
    },
    'never resolves without a receiver': class extends MemoryMember {
      override async send (message: ClusterMessage) {
        return await (this.receivers(message.scope).length === 0 ? NEVER : super.send(message))
      }
    }
  },
  'a message is not delivered in a process that has no claims in the scope': {
    'delivers in every process': receivers((members, sender) => everybodyBut(sender)),
    'delivers in every process that has claims': receivers((members, sender) => everybodyBut(sender).filter(({ own }) => own.size > 0)),
    'delivers in every process if no process has claims': receivers((members, sender) => members.length === 0 ? everybodyBut(sender) : members)
  },
  'a message is not delivered in the process that sends the message': {
    'delivers in its own process too': receivers((members, sender) => [...members, sender]),
    'delivers in its own process if the process has claims': class extends CountsItself {
      override receivers (scope: string | undefined) { return [...new Set([...super.receivers(scope), ...scope === undefined ? [] : [this]])] }
    },
    'delivers in its own process if the message has no scope': receivers((members, sender, scope) => scope === undefined ? [...members, sender] : members)
  },
  'a message without a scope is delivered once in every other process, even in a process without claims': {
    'delivers in processes with claims only': receivers((members, sender, scope) => members.filter(member => scope !== undefined || member.own.size > 0)),
    'delivers once for each claim': receivers((members, sender, scope) => scope === undefined ? members.flatMap(member => member.own.size > 0 ? [...member.own].map(() => member) : [member]) : members),
    'looks once which processes there are': class extends MemoryMember {
      #known: MemoryMember[] | undefined
      override receivers (scope: string | undefined) {
        if (scope !== undefined) return super.receivers(scope)
        this.#known ??= super.receivers(scope)
        return this.#known
      }
    },
    'sends null for no scope': messages(message => ({ ...message, scope: message.scope ?? null as any })),
    'sends an empty scope for no scope': messages(message => ({ ...message, scope: message.scope ?? '' }))
  },
  'the scope, tabId, name, except and retry of a message arrive unchanged, undefined included': {
    'sends null for undefined': messages(message => ({ ...message, name: message.name ?? null as any })),
    'sends an empty text for undefined': messages(message => ({ ...message, tabId: message.tabId ?? '' })),
    'sends nothing for an empty text': messages(message => ({ ...message, except: message.except || undefined })),
    'sends nothing for 0': messages(message => ({ ...message, retry: message.retry || undefined })),
    'sends retry as text': messages(message => ({ ...message, retry: message.retry === undefined ? undefined : String(message.retry) as any })),
    'cuts retry to 30 bits': messages(message => ({ ...message, retry: message.retry === undefined ? undefined : message.retry & 0x3fff_ffff })),
    'forgets except': messages(message => ({ ...message, except: undefined })),
    'forgets the name': messages(message => ({ ...message, name: undefined })),
    'swaps tabId and name': messages(message => ({ ...message, tabId: message.name, name: message.tabId })),
    'sends the scope key for the scope': messages(message => ({ ...message, scope: JSON.parse(message.scope!) })),
    'sends its own scope ids': class extends MemoryMember {
      override deliver (message: ClusterMessage) { return super.deliver({ ...message, scope: this.scopeId(message.scope!) }) }
    },
    'encodes lone surrogates as UTF-8': messages(message => ({ ...message, tabId: message.tabId === undefined ? undefined : Buffer.from(message.tabId).toString() })),
    'splits fields at spaces': messages(message => ({ ...message, name: message.name?.split(' ')[0] })),
    'ends a text at NUL': messages(message => ({ ...message, except: message.except?.split('\0')[0] })),
    'cuts long texts': messages(message => ({ ...message, tabId: message.tabId?.slice(0, 1_000) }))
  },
  'the text of a message arrives unchanged, whatever characters the text consists of': {
    'ends a message at a line feed': texts(text => text.split('\n')[0]!),
    'ends a message at a blank line': texts(text => text.split('\n\n')[0]!),
    'changes line ends': texts(text => text.replaceAll('\r\n', '\n')),
    'trims texts': texts(text => text.trim()),
    'splits a message at spaces': texts(text => text.split(' ').slice(0, 2).join(' ')),
    'ends a text at NUL': texts(text => text.split('\0')[0]!),
    'keeps Latin-1 only': texts(text => Buffer.from(text, 'latin1').toString('latin1')),
    'normalises Unicode': texts(text => text.normalize()),
    'removes a byte order mark': texts(text => new TextDecoder().decode(Buffer.from(text))),
    'unescapes backslashes': texts(text => text.replaceAll('\\\\', '\\')),
    'parses JSON': texts(text => { try { return String(JSON.parse(text)) } catch { return text } }),
    'drops an empty text': class extends MemoryMember {
      override async send (message: ClusterMessage) { return message.text === '' ? 0 : await super.send(message) }
    },
    'keeps line ends in messages with a scope only': messages(message => message.scope === undefined ? { ...message, text: message.text.trim() } : message)
  },
  'a text of maxMessageBytes bytes arrives unchanged': {
    'has no limit': class extends MemoryMember {
      override readonly maxMessageBytes: any = undefined
    },
    'refuses every text': class extends MemoryMember {
      override readonly maxMessageBytes = 0
    },
    'cuts long texts': texts(text => text.slice(0, 1_000_000)),
    'drops long texts': class extends MemoryMember {
      override async send (message: ClusterMessage) { return message.text.length >= 1_048_576 ? 0 : await super.send(message) }
    },
    'limits the message, and not the text': class extends MemoryMember {
      override async send (message: ClusterMessage) {
        return Buffer.byteLength(JSON.stringify(message)) > this.maxMessageBytes ? 0 : await super.send(message)
      }
    },
    'splits a text within a character': texts(text => {
      const bytes = Buffer.from(text)
      return bytes.subarray(0, 65_535).toString() + bytes.subarray(65_535).toString()
    })
  },
  'the messages of different scopes do not meet, whatever characters the scope keys consist of': {
    'ignores case': targets(scope => scope.toLowerCase()),
    'ignores quotes, and so the difference between 1 and "1"': targets(scope => scope.replaceAll('"', '')),
    'ignores white space': targets(scope => scope.replaceAll(/\s/g, '')),
    'normalises Unicode': targets(scope => scope.normalize()),
    'keeps Latin-1 only': targets(scope => Buffer.from(scope, 'latin1').toString()),
    'cuts long scopes': targets(scope => scope.slice(0, 1_000)),
    'replaces what may not be in a subject': targets(scope => scope.replaceAll(/[.*>]/g, '_')),
    'delivers to scopes in lower case': messages(message => ({ ...message, scope: message.scope?.toLowerCase() })),
    'delivers to every scope': messages(message => ({ ...message, scope: undefined })),
    'takes a scope for a pattern': receivers((members, sender, scope) => scope === '"*"' ? everybodyBut(sender) : members)
  },
  '1,000 messages of a process to a scope arrive in the order of the calls, and each resolves to its own number': {
    'sends each second message later': class extends MemoryMember {
      override async send (message: ClusterMessage) {
        if (Number(message.text) % 2 === 1) await hop()
        return await super.send(message)
      }
    },
    'sends long messages first': class extends MemoryMember {
      override async send (message: ClusterMessage) {
        for (let { length } = message.text; length < 3; length++) await hop()
        return await super.send(message)
      }
    },
    'delivers the newest message first': class extends MemoryMember {
      readonly pending: Array<() => void> = []
      override deliver (message: ClusterMessage): any {
        if (this.pending.length === 0) hop().then(() => { for (const next of this.pending.splice(0).reverse()) next() })
        return new Promise(resolve => { this.pending.push(() => resolve(super.deliver(message))) })
      }
    },
    'drops what comes too fast': class extends MemoryMember {
      underWay = 0
      override async send (message: ClusterMessage) {
        if (++this.underWay > 500) return 0
        return await super.send(message).finally(() => { this.underWay-- })
      }
    },
    'takes an equal number of messages for a repeated message': class extends MemoryMember {
      readonly known = new Set<number>()
      sent = 0
      override async send (message: ClusterMessage) {
        const number = ++this.sent
        const taken = await Promise.all(this.receivers(message.scope).map(member => this.ask(member, () => {
          const { known } = member as this
          if (known.has(number)) return 0
          known.add(number)
          return member.deliver(message)
        }, 0)))
        return taken.reduce((a, b) => a + b, 0)
      }
    },
    'joins the answers of a batch': class extends MemoryMember {
      batch: Promise<number> = Promise.resolve(0)
      override async send (message: ClusterMessage) {
        const before = this.batch
        const own = super.send(message)
        this.batch = own
        return Number(message.text) % 100 === 99 ? await before : await own
      }
    }
  },
  'messages of a scope are delivered in a process until its last claim in the scope is released': {
    'remembers each process that had a claim': ForgetsNoReceiver,
    'does not remove a released claim': NoRemoval,
    'forgets a process at its first release': class extends MemoryMember {
      readonly released = new Set<string>()
      override remove (entry: Entry) {
        super.remove(entry)
        this.released.add(entry.scopeId)
      }

      override receivers (scope: string | undefined) {
        return super.receivers(scope).filter(member => scope === undefined || !(member as this).released.has(this.scopeId(scope)))
      }
    },
    'forgets a process in all scopes': class extends MemoryMember {
      override remove (entry: Entry) {
        super.remove(entry)
        if ([...this.store.entries.values()].every(({ scopeId }) => scopeId !== entry.scopeId)) for (const own of this.own.values()) super.remove(own)
      }
    },
    'does not tell a process that comes back': class extends MemoryMember {
      readonly gone = new Set<string>()
      override remove (entry: Entry) {
        super.remove(entry)
        if ([...this.store.entries.values()].every(({ scopeId }) => scopeId !== entry.scopeId)) this.gone.add(entry.scopeId)
      }

      override receivers (scope: string | undefined) {
        return super.receivers(scope).filter(member => scope === undefined || !(member as this).gone.has(this.scopeId(scope)))
      }
    }
  },
  'messages follow a key that moves to another process': {
    'remembers each process that had a claim': ForgetsNoReceiver,
    'tells the first process only': class extends MemoryMember {
      override swap (entry: Entry) {
        const previous = super.swap(entry)
        const first = firstHolders.get(this.store) ?? new Map<string, MemoryMember>()
        firstHolders.set(this.store, first)
        if (!first.has(entry.scopeId)) first.set(entry.scopeId, this)
        return previous
      }

      override receivers (scope: string | undefined) {
        const first = scope === undefined ? undefined : firstHolders.get(this.store)?.get(this.scopeId(scope))
        return super.receivers(scope).filter(member => first === undefined || member === first)
      }
    }
  },
  'messages and lists do not wait for a process that has left': {
    'leaves its claims behind, and waits for an answer': class extends WaitsForAnswers {
      override async leave () {
        this.store.members.delete(this)
        this.left.resolve()
      }
    },
    'waits for an answer of a process that leaves': WaitsForAnswers,
    'rejects if a process leaves': Rejects,
    'delivers after a process has left': class extends MemoryMember {
      override async leave () { this.left.resolve() }
    },
    'waits for an answer of a process that leaves while it lists': class extends MemoryMember {
      override async list (scope: string) {
        const members = this.receivers(scope)
        const infos = await super.list(scope)
        return await (members.every(member => this.store.members.has(member)) ? infos : NEVER)
      }
    }
  },
  'a list joins the streams that the other processes list in the scope, unchanged': {
    'lists nothing': lists(() => []),
    'lists the streams of one process': class extends MemoryMember {
      override async list (scope: string) {
        const [member] = this.receivers(scope)
        return member === undefined ? [] : await this.ask(member, () => member.listOwn(scope), [])
      }
    },
    'lists its own streams too': class extends MemoryMember {
      override async list (scope: string) { return [...await super.list(scope), ...this.listOwn(scope)] }
    },
    'lists its own streams if nobody else has streams': class extends MemoryMember {
      override async list (scope: string) {
        const infos = await super.list(scope)
        return infos.length > 0 ? infos : this.listOwn(scope)
      }
    },
    'asks for the scope key': class extends MemoryMember {
      override listOwn (scope: string) { return super.listOwn(JSON.parse(scope)) }
    },
    'asks for another scope': class extends MemoryMember {
      override async list () { return await super.list(JSON.stringify('ann')) }
    },
    'lists each stream once for each claim': class extends MemoryMember {
      override async list (scope: string) { return [...await super.list(scope), ...await super.list(scope)] }
    },
    'lists a tab once': lists(infos => [...new Map(infos.map(info => [info.tabId, info])).values()]),
    'sends null for undefined': lists(infos => infos.map(info => ({ ...info, tabId: info.tabId ?? null as any }))),
    'forgets names': lists(infos => infos.map(info => ({ ...info, name: undefined }))),
    'encodes lone surrogates as UTF-8': lists(infos => infos.map(info => ({ ...info, tabId: info.tabId === undefined ? undefined : Buffer.from(info.tabId).toString() }))),
    'sends dates': lists(infos => infos.map(info => ({ ...info, openedAt: new Date(info.openedAt) as any }))),
    'sends whole seconds': lists(infos => infos.map(info => ({ ...info, openedAt: Math.floor(info.openedAt / 1_000) * 1_000 }))),
    'waits for a process that has no streams': lists(infos => infos.length > 0 ? infos : NEVER as any),
    'throws in list': class extends MemoryMember {
      override list (): never { throw new Error('the store refuses') }
    },
    'rejects list': class extends MemoryMember {
      override async list (): Promise<never> { throw new Error('the store refuses') }
    }
  },
  'a list of 3,000 streams is complete': {
    'lists the first page only': lists(infos => infos.slice(0, 1_000)),
    'does not list the last page': lists(infos => infos.slice(0, Math.max(1, Math.floor(infos.length / 1_024) * 1_024))),
    'lists a page twice': lists(infos => [...infos, ...infos.slice(0, infos.length - 2_999)]),
    'answers one list at a time': class extends MemoryMember {
      #isBusy = false
      override async list (scope: string) {
        if (this.#isBusy) return []
        this.#isBusy = true
        return await super.list(scope).finally(() => { this.#isBusy = false })
      }
    }
  },
  'of the processes that mark a scope as online, the first is told so': {
    'tells every process that the scope is new': class extends MemoryMember {
      override async markOnline (scope: string, onlineAgain: () => void) { return await super.markOnline(scope, onlineAgain) || true }
    },
    'tells no process': class extends MemoryMember {
      override async markOnline () { return false }
    },
    'has one mark for all scopes': class extends MemoryMember {
      override async markOnline () { return await super.markOnline('', () => {}) }
    },
    'rejects markOnline': class extends MemoryMember {
      override async markOnline (): Promise<boolean> { throw new Error('the store refuses') }
    }
  },
  'a scope is not offline while a process has a claim there, then offline once, and may come online again': {
    'ignores the claims of others': class extends MemoryMember {
      override isHeld () { return false }
    },
    'keeps the mark': class extends MemoryMember {
      override async markOffline (scope: string) { return !this.isHeld(this.scopeId(scope)) }
    },
    'is never offline': class extends MemoryMember {
      override async markOffline () { return false }
    },
    'is offline twice': class extends MemoryMember {
      override unmark (scope: string) { return super.unmark(scope, true) }
    },
    'rejects markOffline': class extends MemoryMember {
      override async markOffline (): Promise<boolean> { throw new Error('the store refuses') }
    }
  },
  'a scope is offline when the last process that has marked the scope says so': {
    'has one mark for all processes': class extends MemoryMember {
      override async markOffline (scope: string) { return !this.isHeld(this.scopeId(scope)) && this.store.online.delete(this.scopeId(scope)) }
    }
  },
  'one process reports that the scope of a process that has left is offline, unless a process has a claim there': {
    'reports nothing': class extends MemoryMember {
      override onLeft () {}
    },
    'reports scopes in which a process has a claim': class extends MemoryMember {
      override isHeld () { return false }
    },
    'reports in every process': class extends MemoryMember {
      override onLeft () {
        const { online } = this.store
        const scopes = [...online]
        setTimeout(() => { for (const [id, { scope }] of scopes) if (!this.isHeld(id)) this.context.wentOffline(scope) }, this.context.offlineDelay)
      }
    }
  },
  'messages and lists of different namespaces do not meet': {
    'ignores the namespace': class extends MemoryMember {
      override scopeId (scope: string) { return scope }
      override receivers (scope: string | undefined) { return scope === undefined ? everybodyBut(this) : super.receivers(scope) }
    },
    'ignores the namespace of a message without a scope': receivers((members, sender, scope) => scope === undefined ? everybodyBut(sender) : members),
    'ignores the namespace of a list': class extends MemoryMember {
      override async list () { return everybodyBut(this).flatMap(member => member.listOwn(JSON.stringify('ann'))) }
    },
    'delivers in the first namespace of a process': class extends MemoryMember {
      override deliver (message: ClusterMessage) { return this.siblings[0]!.context.deliver(message) }
    },
    'lists the streams of the first namespace of a process': class extends MemoryMember {
      override listOwn (scope: string) { return this.siblings[0]!.context.list(scope) }
    },
    'has a namespace for each process': class extends MemoryMember {
      readonly number = Math.random()
      override scopeId (scope: string) { return this.context.namespace === undefined ? scope : `${this.number} ${scope}` }
    }
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
  },
  'while the store is unreachable, a message resolves to 0 and a list is empty': {
    'counts claims that it cannot reach': class extends MemoryMember {
      override async send (message: ClusterMessage) {
        return this.isAway ? this.receivers(message.scope).length : await super.send(message)
      }
    },
    'rejects send': class extends MemoryMember {
      override async send (message: ClusterMessage) {
        if (this.isAway) throw new Error('the store is unreachable')
        return await super.send(message)
      }
    },
    'rejects list': class extends MemoryMember {
      override async list (scope: string) {
        if (this.isAway) throw new Error('the store is unreachable')
        return await super.list(scope)
      }
    },
    'waits for the store to send': class extends MemoryMember {
      override async send (message: ClusterMessage) { return await (this.isAway ? NEVER : super.send(message)) }
    },
    'waits for the store to send to everybody': class extends MemoryMember {
      override async send (message: ClusterMessage) { return await (this.isAway && message.scope === undefined ? NEVER : super.send(message)) }
    },
    'waits for the store to list': class extends MemoryMember {
      override async list (scope: string) { return await (this.isAway ? NEVER : super.list(scope)) }
    },
    'lists its own streams': class extends MemoryMember {
      override async list (scope: string) { return this.isAway ? this.listOwn(scope) : await super.list(scope) }
    },
    'warns each time': class extends MemoryMember {
      override async send (message: ClusterMessage) {
        if (this.isAway) this.context.log.warn('the store is unreachable')
        return await super.send(message)
      }
    }
  },
  'while the store is unreachable, a scope comes online, and no scope goes offline before the store is reachable again': {
    'says nothing of scopes while the store is unreachable': class extends MemoryMember {
      override async markOnline (scope: string, onlineAgain: () => void) { return await super.markOnline(scope, onlineAgain) && !this.isAway }
    },
    'waits for the store before a scope goes offline': class extends MemoryMember {
      override async markOffline (scope: string) { return this.isAway ? await new Promise<never>(() => {}) : await super.markOffline(scope) }
    },
    'takes a scope for offline while the store is unreachable': class extends MemoryMember {
      override async markOffline (scope: string) { return await super.markOffline(scope) || this.isAway }
    },
    'does not restate marks': class extends MemoryMember {
      override restateMarks () {}
    },
    'takes each scope for offline after an outage': class extends MemoryMember {
      override restateMarks () { for (const scope of this.staleMarks) this.context.wentOffline(scope) }
    }
  },
  'messages and lists arrive again after an outage': {
    'does not reconcile': NoReconciliation,
    'does not send again': class extends MemoryMember {
      wasAway = false
      override goAway () {
        super.goAway()
        this.wasAway = true
      }

      override async send (message: ClusterMessage) { return this.wasAway ? 0 : await super.send(message) }
    },
    'does not listen again': class extends MemoryMember {
      wasAway = false
      override goAway () {
        super.goAway()
        this.wasAway = true
      }

      override deliver (message: ClusterMessage) { return this.wasAway ? 0 : super.deliver(message) }
    },
    'does not listen again to messages without a scope': class extends MemoryMember {
      override goAway () {
        super.goAway()
        this.store.members.delete(this)
      }

      override async ask<T> (member: MemoryMember, question: () => T, otherwise: T) {
        await hop()
        return this.isAway || member.isAway ? otherwise : question()
      }
    },
    'does not list again': class extends MemoryMember {
      wasAway = false
      override goAway () {
        super.goAway()
        this.wasAway = true
      }

      override async list (scope: string) { return this.wasAway ? [] : await super.list(scope) }
    },
    'delivers twice after an outage': class extends MemoryMember {
      wasAway = false
      override goAway () {
        super.goAway()
        this.wasAway = true
      }

      override deliver (message: ClusterMessage) {
        if (this.wasAway) super.deliver(message)
        return super.deliver(message)
      }
    }
  },
  'messages and lists do not wait for a process that is cut off': {
    'waits for every answer': WaitsForAnswers,
    'waits for every list': class extends MemoryMember {
      override async list (scope: string) {
        return await (this.receivers(scope).some(({ isAway }) => isAway) ? NEVER : super.list(scope))
      }
    },
    'rejects if an answer is missing': Rejects,
    'resolves to 0 if an answer is missing': class extends MemoryMember {
      override async send (message: ClusterMessage) {
        const taken = await super.send(message)
        return this.receivers(message.scope).some(({ isAway }) => isAway) ? 0 : taken
      }
    },
    'counts a missing answer': class extends MemoryMember {
      override async send (message: ClusterMessage) {
        return await super.send(message) + this.receivers(message.scope).filter(({ isAway }) => isAway).length
      }
    },
    'sends again if an answer is missing': class extends MemoryMember {
      override async send (message: ClusterMessage) {
        if (this.receivers(message.scope).some(({ isAway }) => isAway)) await super.send(message)
        return await super.send(message)
      }
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

t.test('the adapter passes with node:test, at the top level and within a test', async t => {
  const child = startChild(t, '--import=./test/kit/strip-types.js', {}, [], ['--test-reporter=tap', 'test/kit/conformance-in-node-test.ts'])
  const lines: string[] = []
  child.lines.on('line', line => { lines.push(line) })
  t.strictSame(await child.exited, [0, null], child.errors())
  const passed = (indent: string) => lines.filter(line => line.startsWith(`${indent}ok `)).length
  t.equal(passed(''), titles.length - 12 + 1, 'without `disconnect` the twelve rules about an outage are not registered')
  t.equal(passed('    '), titles.length)
  t.strictSame(lines.filter(line => /not ok|# SKIP|# TODO/.test(line)), [])
})

t.test('the adapter passes with a runner that collects tests and runs them later', async t => {
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
