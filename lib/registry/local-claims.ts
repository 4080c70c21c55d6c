// The claims of this process: for each stream key the newest claim, grouped by scope.
import type { StreamKey } from '../../types/stream.ts'

/** What a claim needs to be found again. */
interface Keyed {
  readonly key: StreamKey
}

/** The claims of a scope: a single claim, as in most scopes, or the claims by slot. */
interface Scope<C> {
  only: C | undefined
  slots: Map<string, C> | undefined
}

/**
 * Maps scope -> slot -> newest claim. A key's newest claim stays until the release, whatever happens to the holder, so that
 * the next claim finds its predecessor and waits.
 */
export class LocalClaims<C extends Keyed> {
  // A claim is not the value itself: V8 keeps the old tables of a Map that changes, with the values of that time, until the next full
  // collection. A released claim would stay in an old table.
  readonly #scopes = new Map<string, Scope<C>>()

  /** Makes `claim` the newest claim of the key, and returns the previous newest claim of that key. */
  claim (claim: C): C | undefined {
    const { key } = claim
    const scope = this.#scopes.get(key.scope)
    if (scope === undefined) {
      this.#scopes.set(key.scope, { only: claim, slots: undefined })
      return undefined
    }
    const { only } = scope
    if (only?.key.slot === key.slot) {
      scope.only = claim
      return only
    }
    if (only !== undefined) {
      scope.slots = new Map([[only.key.slot, only]])
      scope.only = undefined
    }
    const slots = scope.slots!
    const previous = slots.get(key.slot)
    // A Map keeps the position of an existing key, but the new claim is the youngest of the scope.
    if (previous !== undefined) slots.delete(key.slot)
    slots.set(key.slot, claim)
    return previous
  }

  /** Forgets `claim` if no newer claim has taken the key. */
  release (claim: C): void {
    const { key } = claim
    const scope = this.#scopes.get(key.scope)
    if (scope === undefined) return
    if (scope.only === claim) scope.only = undefined
    else if (scope.slots?.get(key.slot) === claim) scope.slots.delete(key.slot)
    if (countOf(scope) === 0) this.#scopes.delete(key.scope)
  }

  get (key: StreamKey): C | undefined {
    const scope = this.#scopes.get(key.scope)
    if (scope?.slots !== undefined) return scope.slots.get(key.slot)
    return scope?.only?.key.slot === key.slot ? scope.only : undefined
  }

  /** The number of claims in a scope. */
  countScope (scope: string): number {
    const claims = this.#scopes.get(scope)
    return claims === undefined ? 0 : countOf(claims)
  }

  /** The claims of a scope, oldest first. */
  scope (scope: string): readonly C[] {
    const claims = this.#scopes.get(scope)
    return claims === undefined ? [] : claimsOf(claims)
  }

  /** The claims of all scopes. */
  toArray (): C[] {
    const claims = []
    for (const { only, slots } of this.#scopes.values()) {
      if (only !== undefined) claims.push(only)
      else for (const claim of slots!.values()) claims.push(claim)
    }
    return claims
  }
}

function countOf <C> ({ only, slots }: Scope<C>): number {
  return only === undefined ? slots?.size ?? 0 : 1
}

function claimsOf <C> ({ only, slots }: Scope<C>): C[] {
  return only === undefined ? [...slots!.values()] : [only]
}
