// Where claims on stream keys are kept: the contract, and the backend of a single process.
import type { Holder, StreamKey } from '../types/index.ts'

/** One holder's claim on one key, from `startStream` until nothing of the holder runs any more. */
export interface Claim {
  readonly key: StreamKey
  readonly holder: Holder
  /** Settles when the holder is gone, and so is every predecessor that it waited for. Never rejects. */
  readonly gone: Promise<unknown>
}

/**
 * A backend holds one claim for each key: the newest.
 *
 * - `claim` is atomic: of any number of claims on one key each but the first is given exactly the one before it, in the
 *   order of the calls. An absent answer means that nobody has to be waited for.
 * - `release` compares identity: a claim that is not, or no longer, the newest is left where it is.
 * - A claim stays until it is released, however its holder fares: who comes later must find it, and wait for it.
 */
export interface Backend<C extends Claim> extends Iterable<C> {
  /** Makes `claim` the newest of its key, and returns the one that was. */
  claim (claim: C): C | undefined
  /** Forgets `claim`, if it is the newest of its key. */
  release (claim: C): void
  get (key: StreamKey): C | undefined
  /** The claims of a scope, the oldest first. */
  scope (scope: string): readonly C[]
}

/** The backend of one process: scope -> slot -> claim. */
export class LocalBackend<C extends Claim> implements Backend<C> {
  // Most scopes have one claim at a time: no map for it.
  readonly #scopes = new Map<string, C | Map<string, C>>()

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
    // A Map keeps the place of a key that it knows: without this a replaced claim would pass for the oldest.
    if (previous !== undefined) slots.delete(slot)
    slots.set(slot, claim)
    return previous
  }

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
