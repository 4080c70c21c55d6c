// Limits the streams of a scope: each claim takes a seat, and waits in line while the scope has no free seat.
import type { Claim } from './claim.ts'

interface Scope {
  /** Claims with a seat, from the time they took the seat until their release. */
  readonly seated: Set<Claim>
  /** Claims without a seat, in the order of their arrival, each with the callback that ends the wait. */
  readonly line: Map<Claim, () => void>
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
   * Gives `claim` the seat of the predecessor, or a free seat, and returns `undefined`. In a full scope returns a promise
   * that resolves when the claim gets a seat, or leaves the line.
   */
  enter (claim: Claim, predecessor: Claim | undefined): Promise<void> | undefined {
    const scope = this.#scopes.get(claim.key.scope) ?? { seated: new Set(), line: new Map() }
    this.#scopes.set(claim.key.scope, scope)
    if (predecessor !== undefined) this.leaveLine(predecessor)
    if ((predecessor !== undefined && scope.seated.delete(predecessor)) || scope.seated.size < this.#max) {
      scope.seated.add(claim)
      return undefined
    }
    return new Promise(resolve => scope.line.set(claim, resolve))
  }

  /** Ends the wait of a claim in line. Does nothing if the claim is not in line. */
  leaveLine (claim: Claim): void {
    const line = this.#scopes.get(claim.key.scope)?.line
    line?.get(claim)?.()
    line?.delete(claim)
  }

  /** Frees the seat of a released claim. The first claim in line takes that seat. */
  leave (claim: Claim): void {
    this.leaveLine(claim)
    const scope = this.#scopes.get(claim.key.scope)
    if (scope === undefined) return
    if (scope.seated.delete(claim)) {
      const [next] = scope.line.keys()
      if (next !== undefined) {
        scope.seated.add(next)
        this.leaveLine(next)
      }
    }
    if (scope.seated.size === 0 && scope.line.size === 0) this.#scopes.delete(claim.key.scope)
  }
}
