// Limits the streams of a scope: each claim takes a seat, and waits in line while the scope has no free seat.
import { List, type Linked } from '../list.ts'
import type { StreamKey } from '../../types/stream.ts'

/** What a claim shows to its scope. */
export interface Sitter<C> {
  readonly key: StreamKey
  /** The holder has begun to end. */
  readonly isEnding: boolean
  /** `true` if only `isEnding` shows that the holder has begun to end by itself. */
  readonly mayEndSilently: boolean
  /** Belongs to {@link Seats}. */
  seat: Seat<C> | undefined
}

interface Scope<C> {
  readonly key: string
  /** How many claims have a seat. */
  taken: number
  /** Claims with or without a seat that have not begun to end, in the order of their arrival. */
  readonly live: List<Seat<C>>
  /** Claims without a seat, in the order of their arrival. */
  readonly line: List<Waiting<C>>
  /** The live claims whose holder may begin to end without telling the claim. */
  readonly silent: Set<C>
}

/** What a scope with a limit knows of a claim, from the claim's arrival until the claim's release. */
export interface Seat<C> extends Linked<Seat<C>> {
  readonly claim: C
  readonly scope: Scope<C>
  isTaken: boolean
  isLive: boolean
  /** Set while the claim waits in line. */
  waiting: Waiting<C> | undefined
}

interface Waiting<C> extends Linked<Waiting<C>> {
  readonly seat: Seat<C>
  /** Ends the wait. */
  readonly resolve: () => void
}

export class Seats<C extends Sitter<C>> {
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
    for (const claim of entered.silent) {
      if (claim.isEnding) this.claimEnding(claim)
    }
    return entered.live.size < this.#max ? undefined : entered.live.first?.claim
  }

  /**
   * Gives `claim` the seat of the predecessor, or a free seat, and returns `undefined`. In a full scope returns a promise
   * that resolves when the claim gets a seat, or leaves the line.
   */
  enter (claim: C, predecessor: C | undefined): Promise<void> | undefined {
    const { scope: key } = claim.key
    let scope = this.#scopes.get(key)
    if (scope === undefined) this.#scopes.set(key, scope = { key, taken: 0, live: new List(), line: new List(), silent: new Set() })
    const seat: Seat<C> = claim.seat = { claim, scope, isTaken: false, isLive: !claim.isEnding, waiting: undefined, previous: undefined, next: undefined }
    if (seat.isLive) {
      scope.live.add(seat)
      if (claim.mayEndSilently) scope.silent.add(claim)
    }
    if (predecessor?.seat !== undefined && passOn(predecessor.seat, seat)) return undefined
    if (scope.taken < this.#max) {
      scope.taken++
      seat.isTaken = true
      return undefined
    }
    const { line } = scope
    return new Promise(resolve => { line.add(seat.waiting = { seat, resolve, previous: undefined, next: undefined }) })
  }

  /** The holder of `claim` has begun to end. A claim in line does not wait any longer. */
  claimEnding ({ seat }: C): void {
    if (seat === undefined) return
    leaveLine(seat)
    if (!seat.isLive) return
    seat.isLive = false
    seat.scope.live.delete(seat)
    seat.scope.silent.delete(seat.claim)
  }

  /** Frees the seat of a released claim. The first claim in line takes that seat. */
  leave (claim: C): void {
    this.claimEnding(claim)
    const { seat } = claim
    if (seat === undefined) return
    claim.seat = undefined
    const { scope } = seat
    const next = scope.line.first?.seat
    if (next !== undefined && passOn(seat, next)) leaveLine(next)
    else if (seat.isTaken && --scope.taken === 0) this.#scopes.delete(scope.key)
  }
}

/** Returns `false` if the claim of `from` has no seat. */
function passOn<C> (from: Seat<C>, to: Seat<C>): boolean {
  to.isTaken = from.isTaken
  from.isTaken = false
  return to.isTaken
}

function leaveLine<C> (seat: Seat<C>): void {
  if (seat.waiting === undefined) return
  seat.scope.line.delete(seat.waiting)
  seat.waiting.resolve()
  seat.waiting = undefined
}
