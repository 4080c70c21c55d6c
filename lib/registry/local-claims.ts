// The claims of this process: for each stream key the newest claim, grouped by scope.
import type { StreamKey } from '../../types/stream.ts'

/** What a claim needs to be found again. */
interface Keyed {
  readonly key: StreamKey
}

/**
 * Maps scope -> slot -> newest claim. A key's newest claim stays until the release, whatever happens to the holder, so that
 * the next claim finds its predecessor and waits.
 */
export class LocalClaims<C extends Keyed> implements Iterable<C> {
  // Most scopes have a single claim at a time, which needs no inner map.
  readonly #scopes = new Map<string, C | Map<string, C>>()

  /** Makes `claim` the newest claim of the key, and returns the previous newest claim of that key. */
  claim (claim: C): C | undefined {
    const { scope, slot } = claim.key
    const held = this.#scopes.get(scope)
    if (held === undefined || (!(held instanceof Map) && held.key.slot === slot)) {
      this.#scopes.set(scope, claim)
      return held
    }
    const slots = held instanceof Map ? held : new Map([[held.key.slot, held]])
    if (slots !== held) this.#scopes.set(scope, slots)
    const previous = slots.get(slot)
    // A Map keeps the position of an existing key, but the new claim is the youngest of the scope.
    if (previous !== undefined) slots.delete(slot)
    slots.set(slot, claim)
    return previous
  }

  /** Forgets `claim` if no newer claim has taken the key. */
  release (claim: C): void {
    const { scope, slot } = claim.key
    const held = this.#scopes.get(scope)
    if (held === claim) this.#scopes.delete(scope)
    else if (held instanceof Map && held.get(slot) === claim) {
      held.delete(slot)
      if (held.size === 0) this.#scopes.delete(scope)
    }
  }

  get ({ scope, slot }: StreamKey): C | undefined {
    const held = this.#scopes.get(scope)
    if (held instanceof Map) return held.get(slot)
    return held?.key.slot === slot ? held : undefined
  }

  /** The number of claims in a scope. */
  countScope (scope: string): number {
    const held = this.#scopes.get(scope)
    return held === undefined ? 0 : held instanceof Map ? held.size : 1
  }

  /** The claims of a scope, oldest first. */
  scope (scope: string): readonly C[] {
    const held = this.#scopes.get(scope)
    if (held === undefined) return []
    return held instanceof Map ? [...held.values()] : [held]
  }

  * [Symbol.iterator] (): Iterator<C> {
    for (const held of this.#scopes.values()) {
      if (held instanceof Map) yield * held.values()
      else yield held
    }
  }
}
