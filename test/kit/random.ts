// Random numbers that can be repeated: the same seed gives the same numbers.

/** A Lehmer generator, see https://en.wikipedia.org/wiki/Lehmer_random_number_generator */
export class Random {
  #state: number
  constructor (seed: number) { this.#state = (seed * 2654435761) % 2147483646 + 1 }

  /** A whole number from 0 to `limit` - 1. */
  below (limit: number): number {
    this.#state = (this.#state * 48271) % 2147483647
    return this.#state % limit
  }

  chance (percent: number): boolean { return this.below(100) < percent }

  of<T> (choices: readonly T[]): T { return choices[this.below(choices.length)]! }
}
