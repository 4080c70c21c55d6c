// Limits the streams of a scope: each claim takes a seat, and waits in line while the scope has no free seat.
import type { Claim } from './claim.ts'
import { Queue } from './queue.ts'

interface Scope {
  /** Claims with a seat, from the time they took the seat until their release. */
  readonly seated: Set<Claim>
  /** Claims without a seat, in the order of their arrival, each with the callback that ends the wait. */
  readonly line: Queue<Claim, () => void>
  /** Claims with or without a seat that have not begun to end, in the order of their arrival. */
  readonly live: Queue<Claim, undefined>
  /** The live claims whose holder may begin to end without telling the claim. */
  readonly silent: Set<Claim>
}

export class Seats {
  readonly #max: number
  readonly #scopes = new Map<string, Scope>()

  constructor (max: number) {
    this.#max = max
  }

  /** Returns `true` if a scope has no free seat. */
  isFull (scope: string): boolean {
    const seated = this.#scopes.get(scope)?.seated
    return seated !== undefined && seated.size >= this.#max
  }

  /**
   * The claim that must end so that a claim with `predecessor` may enter `scope`. For every claim in line, a claim with a seat
   * is ending.
   */
  evicteeFor (scope: string, predecessor: Claim | undefined): Claim | undefined {
    const entered = this.#scopes.get(scope)
    if (entered === undefined || entered.live.size < this.#max) return undefined
    if (predecessor !== undefined) this.claimEnding(predecessor)
    for (const claim of entered.silent) {
      if (claim.isEnding) this.claimEnding(claim)
    }
    return entered.live.size < this.#max ? undefined : entered.live.oldest
  }

  /**
   * Gives `claim` the seat of the predecessor, or a free seat, and returns `undefined`. In a full scope returns a promise
   * that resolves when the claim gets a seat, or leaves the line.
   */
  enter (claim: Claim, predecessor: Claim | undefined): Promise<void> | undefined {
    const scope = this.#scopes.get(claim.key.scope) ?? { seated: new Set(), line: new Queue(), live: new Queue(), silent: new Set() }
    this.#scopes.set(claim.key.scope, scope)
    if (!claim.isEnding) {
      scope.live.add(claim, undefined)
      if (claim.mayEndSilently) scope.silent.add(claim)
    }
    if ((predecessor !== undefined && scope.seated.delete(predecessor)) || scope.seated.size < this.#max) {
      scope.seated.add(claim)
      return undefined
    }
    return new Promise(resolve => scope.line.add(claim, resolve))
  }

  /** The holder of `claim` has begun to end. A claim in line does not wait any longer. */
  claimEnding (claim: Claim): void {
    const scope = this.#scopes.get(claim.key.scope)
    if (scope === undefined) return
    leaveLine(scope, claim)
    scope.live.delete(claim)
    scope.silent.delete(claim)
  }

  /** Frees the seat of a released claim. The first claim in line takes that seat. */
  leave (claim: Claim): void {
    this.claimEnding(claim)
    const scope = this.#scopes.get(claim.key.scope)
    if (scope === undefined) return
    const { seated, line } = scope
    if (seated.delete(claim)) {
      const next = line.oldest
      if (next !== undefined) {
        seated.add(next)
        leaveLine(scope, next)
      }
    }
    if (seated.size === 0 && line.size === 0) this.#scopes.delete(claim.key.scope)
  }
}

function leaveLine ({ line }: Scope, claim: Claim): void {
  line.get(claim)?.()
  line.delete(claim)
}
