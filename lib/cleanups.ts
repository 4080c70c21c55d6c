// The cleanups of one stream: each is called once, all are waited for, and what one of them throws keeps nobody waiting.
import type { CloseReason } from '../types/index.ts'

export type Cleanup = (reason: CloseReason) => unknown

export class Cleanups {
  readonly #onError: (err: unknown) => void
  readonly #onSettled: () => void
  #callbacks: Cleanup[] = []
  #reason: CloseReason | undefined
  /** How many have not settled. */
  running = 0

  /** `onSettled` is called after each. */
  constructor (onError: (err: unknown) => void, onSettled: () => void) {
    this.#onError = onError
    this.#onSettled = onSettled
  }

  /** Keeps `callback` for `run`; after that it is called at once. */
  add (callback: Cleanup): void {
    if (this.#reason === undefined) this.#callbacks.push(callback)
    else this.#call(callback, this.#reason)
  }

  run (reason: CloseReason): void {
    this.#reason = reason
    for (const callback of this.#callbacks.splice(0)) this.#call(callback, reason)
  }

  async #call (callback: Cleanup, reason: CloseReason): Promise<void> {
    this.running++
    try {
      await callback(reason)
    } catch (err) {
      this.#onError(err)
    }
    this.running--
    this.#onSettled()
  }
}
