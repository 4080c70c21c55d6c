// The smallest adapter that keeps the contract: the members are in one process, and the store is a Map. A test can cut a member off
// from the store. test/conformance.test.ts breaks each method once, to prove that the published tests notice.
import { setImmediate as turn } from 'node:timers/promises'
import { deferred, within } from '../../lib/wait.ts'
import type { Cluster, ClusterAdapter, ClusterClaim, ClusterContext, ClusterMessage, StreamInfo, StreamKey } from '../../lib/index.ts'

/** The number of messages so far, to and from the store and between members. */
export const traffic = { messages: 0 }

/** The way of a message. */
export async function hop (): Promise<void> {
  traffic.messages++
  await turn()
}

/** The newest claim on a key. */
export interface Entry {
  readonly id: string
  /** Names the scope and the namespace. */
  readonly scopeId: string
  readonly claim: ClusterClaim
  readonly member: MemoryMember
  /** When the claim was made, as a count of all claims. */
  readonly order: number
}

export class MemoryStore {
  readonly entries = new Map<string, Entry>()
  readonly members = new Set<MemoryMember>()
  /** The scopes that are marked as online, by their ids, and the members that count each scope as online. */
  readonly online = new Map<string, { readonly scope: string, readonly members: Set<MemoryMember> }>()
  orders = 0
}

export class MemoryMember implements Cluster {
  isAway = false
  readonly maxMessageBytes: number = 1_048_576
  readonly store: MemoryStore
  readonly context: ClusterContext
  /** The members of the same process, including this member. */
  readonly siblings: readonly MemoryMember[]
  /** The claims of this member that are not released. */
  readonly own = new Map<ClusterClaim, Entry>()
  /** What reports a scope as online again, for each scope that this member counts as online. */
  readonly marks = new Map<string, () => void>()
  /** The scopes for which `markOffline` was called while the store was unreachable. */
  readonly staleMarks = new Set<string>()
  readonly left = deferred<void>()
  #back = deferred<void>()

  constructor (store: MemoryStore, context: ClusterContext, siblings: readonly MemoryMember[]) {
    this.store = store
    this.context = context
    this.siblings = siblings
    store.members.add(this)
  }

  claim (claim: ClusterClaim): Promise<unknown> | undefined {
    const entry = { id: this.idOf(claim.key), scopeId: this.scopeId(claim.key.scope), claim, member: this, order: ++this.store.orders }
    this.own.set(claim, entry)
    return this.make(entry)
  }

  async make (entry: Entry): Promise<unknown> {
    await hop()
    if (this.isAway || !this.own.has(entry.claim)) return
    const previous = this.swap(entry)
    if (previous !== undefined && previous.member !== this) await this.endElsewhere(previous, 'replaced')
  }

  /** Stores `entry`, and returns the entry that was there. */
  swap (entry: Entry): Entry | undefined {
    const previous = this.store.entries.get(entry.id)
    this.store.entries.set(entry.id, entry)
    return previous
  }

  release (claim: ClusterClaim): void {
    const entry = this.own.get(claim)
    this.own.delete(claim)
    if (entry !== undefined && !this.isAway) this.remove(entry)
  }

  remove (entry: Entry): void {
    if (this.store.entries.get(entry.id) === entry) this.store.entries.delete(entry.id)
  }

  async evict (scope: string, tabId?: string): Promise<number> {
    await hop()
    if (this.isAway) throw new Error('the store is unreachable')
    const evicted = this.others(scope).filter(({ claim: { key } }) => this.isOfTab(key, tabId))
    if (!await within(Promise.all(evicted.map(entry => this.endElsewhere(entry, 'evicted'))), this.context.replaceTimeout)) throw new Error('a claim is not released')
    return evicted.length
  }

  isOfTab (key: StreamKey, tabId: string | undefined): boolean {
    return tabId === undefined || key.tabId === tabId
  }

  async count (scope: string): Promise<number> {
    await hop()
    return this.isAway ? 0 : this.others(scope).length
  }

  async send (message: ClusterMessage): Promise<number> {
    const taken = await Promise.all(this.receivers(message.scope).map(member => this.ask(member, () => member.deliver(message), 0)))
    return taken.reduce((a, b) => a + b, 0)
  }

  async list (scope: string): Promise<StreamInfo[]> {
    const lists = await Promise.all(this.receivers(scope).map(member => this.ask(member, () => member.listOwn(scope), [])))
    return lists.flat()
  }

  /** Delivers a message of another member. */
  deliver (message: ClusterMessage): number {
    return this.context.deliver(message)
  }

  /** Tells another member of the streams of this member. */
  listOwn (scope: string): StreamInfo[] {
    return this.context.list(scope)
  }

  /** Asks `member`. Resolves to `otherwise` if `member` or this member cannot reach the store. */
  async ask<T> (member: MemoryMember, question: () => T, otherwise: T): Promise<T> {
    await hop()
    return this.isAway || member.isAway || !this.store.members.has(member) ? otherwise : question()
  }

  /** The other members that have claims in `scope`, or all other members if `scope` is undefined. */
  receivers (scope: string | undefined): MemoryMember[] {
    if (scope !== undefined) return [...new Set(this.others(scope).map(({ member }) => member))]
    return [...this.store.members].filter(member => member !== this && member.context.namespace === this.context.namespace)
  }

  async markOnline (scope: string, onlineAgain: () => void): Promise<boolean> {
    await hop()
    this.marks.set(scope, onlineAgain)
    this.staleMarks.delete(scope)
    return this.isAway || this.mark(scope)
  }

  /** Returns whether the scope was not marked. */
  mark (scope: string): boolean {
    const mark = this.store.online.get(this.scopeId(scope))
    if (mark === undefined) this.store.online.set(this.scopeId(scope), { scope, members: new Set([this]) })
    else mark.members.add(this)
    return mark === undefined
  }

  async markOffline (scope: string): Promise<boolean> {
    await hop()
    const isOwn = this.marks.delete(scope)
    if (this.isAway) this.staleMarks.add(scope)
    return !this.isAway && this.unmark(scope, isOwn)
  }

  /** Returns whether the mark was removed, or is missing although this member made the mark. */
  unmark (scope: string, isOwn: boolean): boolean {
    const id = this.scopeId(scope)
    this.store.online.get(id)?.members.delete(this)
    return !this.isOnline(id) && (this.store.online.delete(id) || isOwn)
  }

  restateMarks (): void {
    for (const [scope, onlineAgain] of this.marks) if (this.mark(scope)) onlineAgain()
    for (const scope of this.staleMarks) if (this.unmark(scope, true)) this.context.wentOffline(scope)
    this.staleMarks.clear()
  }

  /** Whether a member has a claim in a scope, or counts the scope as online. */
  isOnline (scopeId: string): boolean {
    const members = this.store.online.get(scopeId)?.members ?? []
    return this.isHeld(scopeId) || [...members].some(member => this.store.members.has(member))
  }

  isHeld (scopeId: string): boolean {
    return [...this.store.entries.values()].some(entry => entry.scopeId === scopeId)
  }

  /** Another process of the cluster has ended. Nobody may have marked the scopes of that process as offline. */
  onLeft (): void {
    setTimeout(() => {
      for (const [id, { scope }] of this.store.online) {
        if (this.isAway || this.scopeId(scope) !== id || this.isOnline(id)) continue
        this.store.online.delete(id)
        this.context.wentOffline(scope)
      }
    }, this.context.offlineDelay).unref()
  }

  /** The entries that other members have in `scope`. */
  others (scope: string): Entry[] {
    return [...this.store.entries.values()].filter(({ scopeId, member }) => scopeId === this.scopeId(scope) && member !== this)
  }

  async leave (): Promise<void> {
    if (!this.isAway) for (const entry of this.own.values()) this.remove(entry)
    this.own.clear()
    this.store.members.delete(this)
    for (const member of this.store.members) member.onLeft()
    this.left.resolve()
  }

  /** Ends the claim of another member, and resolves when the claim is released or the member has left. */
  async endElsewhere ({ claim, member }: Entry, reason: 'replaced' | 'evicted'): Promise<void> {
    await hop()
    await Promise.race([member.onEnd(claim, reason), member.left.promise])
  }

  async onEnd (claim: ClusterClaim, reason: 'replaced' | 'evicted'): Promise<void> {
    if (this.isAway) await this.#back.promise
    claim.end(reason)
    await claim.released
  }

  goAway (): void {
    this.isAway = true
    this.#back = deferred()
    this.context.log.child({ store: 'memory' }).warn('the store is unreachable')
  }

  comeBack (): void {
    this.context.log.info('the store is reachable again')
    this.isAway = false
    this.reconcile()
    this.restateMarks()
    this.#back.resolve()
  }

  /** States all claims of this member again. Of two claims on a key the newer is left. */
  reconcile (): void {
    for (const entry of this.store.entries.values()) if (entry.member === this && this.own.get(entry.claim) !== entry) this.remove(entry)
    for (const entry of this.own.values()) {
      const stored = this.store.entries.get(entry.id)
      if (stored === undefined || stored.order < entry.order) {
        this.swap(entry)
        if (stored !== undefined && stored.member !== this) this.endElsewhere(stored, 'replaced')
      } else if (stored !== entry && stored.member !== this) {
        entry.claim.end('replaced')
      }
    }
  }

  scopeId (scope: string): string {
    return JSON.stringify([this.context.namespace, scope])
  }

  // A claim without a tab id is never replaced: the number makes the id unique in the store.
  idOf (key: StreamKey): string {
    return JSON.stringify([this.scopeId(key.scope), key.slot, key.tabId === undefined ? this.store.orders : undefined])
  }
}

export interface MemoryAdapter extends ClusterAdapter {
  readonly members: MemoryMember[]
}

/** Makes the adapter of a process. `Member` may be a class with a fault. */
export function memoryCluster (store: MemoryStore, Member = MemoryMember): MemoryAdapter {
  const members: MemoryMember[] = []
  return {
    members,
    async join (context) {
      const member = new Member(store, context, members)
      members.push(member)
      return member
    }
  }
}

/** Cuts a process off from the store, and returns a function that connects the process again. */
export function disconnect ({ members }: MemoryAdapter): () => void {
  for (const member of members) member.goAway()
  return () => { for (const member of members) member.comeBack() }
}
