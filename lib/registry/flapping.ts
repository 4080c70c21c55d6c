// Notices keys that flap: a key that is replaced again and again most likely belongs to two tabs with the same tab id.
export const FLAPPING_TIMES = 10
export const FLAPPING_MS = 10_000

/** The replacements of a key, as a ring buffer of times. */
export class Replacements {
  readonly #times = new Array<number>(FLAPPING_TIMES + 1).fill(-Infinity)
  #count = 0
  #isReported = false

  /** Adds a replacement. Returns `true` the first time there were more than `FLAPPING_TIMES` within `FLAPPING_MS`. */
  add (now: number): boolean {
    this.#times[this.#count++ % this.#times.length] = now
    const oldest = this.#times[this.#count % this.#times.length]!
    if (this.#isReported || now - oldest >= FLAPPING_MS) return false
    this.#isReported = true
    return true
  }
}
