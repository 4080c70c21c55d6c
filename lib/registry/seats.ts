// Limits the streams of a scope: each claim takes a seat, and waits in line while the scope has no free seat.
import { List, type Linked } from '../list.ts'
import type { StreamKey } from '../../types/stream.ts'

/** A claim as a scope with a limit sees the claim. */
export interface LimitedClaim<C> {
  readonly key: StreamKey
  /** The holder has begun to end. */
  readonly isEnding: boolean
  /** `true` if only `isEnding` shows that the holder has begun to end by itself. */
  readonly mayEndSilently: boolean
  /** The holder has begun to end: calls {@link Seats.claimEnding}, and bounds the time until the holder is gone. */
  holderEnding (): void
  /** Set by {@link Seats} from the claim's arrival in the scope until the claim's release. */
  scopeEntry: ScopeEntry<C> | undefined
}

interface Scope<C> {
  readonly key: string
  /** How many claims have a seat. */
  taken: number
  /** Claims with or without a seat that have not begun to end, in the order of their arrival. */
  readonly live: List<ScopeEntry<C>>
  /** Claims without a seat, in the order of their arrival. */
  readonly line: List<Waiting<C>>
  /** The live claims whose holder may begin to end without telling the claim. */
  readonly silent: Set<C>
}

/** What a scope with a limit knows of a claim, from the claim's arrival until the claim's release. */
export interface ScopeEntry<C> extends Linked<ScopeEntry<C>> {
  readonly claim: C
  readonly scope: Scope<C>
  hasSeat: boolean
  isLive: boolean
  /** Set while the claim waits in line. */
  waiting: Waiting<C> | undefined
}

interface Waiting<C> extends Linked<Waiting<C>> {
  readonly entry: ScopeEntry<C>
  /** Ends the wait. Most claims get a seat before anybody asks for a promise. */
  resolve: (() => void) | undefined
}

export class Seats<C extends LimitedClaim<C>> {
  readonly #max: number
  readonly #scopes = new Map<string, Scope<C>>()

  constructor (max: number) {
    this.#max = max
  }

  /** Returns `true` if a scope has no free seat. */
  isFull (scope: string): boolean {
    const taken = this.#scopes.get(scope)?.taken
    return taken !== undefined && taken >= this.#max
  }

  /**
   * The claim that must end so that a claim with `predecessor` may enter `scope`. For every claim in line, a claim with a seat
   * is ending.
   */
  evicteeFor (scope: string, predecessor: C | undefined): C | undefined {
    const entered = this.#scopes.get(scope)
    if (entered === undefined || entered.live.size < this.#max) return undefined
    if (predecessor !== undefined) this.claimEnding(predecessor)
    this.noticeEnds(scope)
    return entered.live.size < this.#max ? undefined : entered.live.first?.claim
  }

  /** Looks for holders in `scope` that have begun to end by themselves. */
  noticeEnds (scope: string): void {
    for (const claim of this.#scopes.get(scope)?.silent ?? []) if (claim.isEnding) claim.holderEnding()
  }

  /**
   * Gives `claim` the seat of the predecessor, or a free seat, and returns `true`. In a full scope the claim waits in line, see
   * {@link Seats.seated}.
   */
  enter (claim: C, predecessor: C | undefined): boolean {
    const { scope: key } = claim.key
    let scope = this.#scopes.get(key)
    if (scope === undefined) this.#scopes.set(key, scope = { key, taken: 0, live: new List(), line: new List(), silent: new Set() })
    const entry: ScopeEntry<C> = claim.scopeEntry = { claim, scope, hasSeat: false, isLive: !claim.isEnding, waiting: undefined, previous: undefined, next: undefined }
    if (entry.isLive) {
      scope.live.add(entry)
      if (claim.mayEndSilently) scope.silent.add(claim)
    }
    if (predecessor?.scopeEntry !== undefined && passSeat(predecessor.scopeEntry, entry)) return true
    if (scope.taken < this.#max) {
      scope.taken++
      entry.hasSeat = true
      return true
    }
    scope.line.add(entry.waiting = { entry, resolve: undefined, previous: undefined, next: undefined })
    return false
  }

  /** A promise that resolves when `claim` gets a seat, or leaves the line. `undefined` if the claim does not wait in line. */
  seated (claim: C): Promise<void> | undefined {
    const waiting = claim.scopeEntry?.waiting
    return waiting === undefined ? undefined : new Promise(resolve => { waiting.resolve = resolve })
  }

  /** The holder of `claim` has begun to end. A claim in line does not wait any longer. */
  claimEnding (claim: C): void {
    // A released claim never ends again.
    const entry = claim.scopeEntry!
    leaveLine(entry)
    if (!entry.isLive) return
    entry.isLive = false
    entry.scope.live.delete(entry)
    entry.scope.silent.delete(entry.claim)
  }

  /** Frees the seat of a released claim. The first claim in line takes that seat. */
  leave (claim: C): void {
    this.claimEnding(claim)
    const entry = claim.scopeEntry!
    claim.scopeEntry = undefined
    const { scope } = entry
    const next = scope.line.first?.entry
    if (next !== undefined && passSeat(entry, next)) leaveLine(next)
    else if (entry.hasSeat && --scope.taken === 0) this.#scopes.delete(scope.key)
  }
}

/** Returns `false` if the claim of `from` has no seat. */
function passSeat<C> (from: ScopeEntry<C>, to: ScopeEntry<C>): boolean {
  to.hasSeat = from.hasSeat
  from.hasSeat = false
  return to.hasSeat
}

function leaveLine<C> (entry: ScopeEntry<C>): void {
  if (entry.waiting === undefined) return
  entry.scope.line.delete(entry.waiting)
  entry.waiting.resolve?.()
  entry.waiting = undefined
}
