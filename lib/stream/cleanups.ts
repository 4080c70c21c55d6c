// The onClose callbacks of a stream: each runs once, and a failed callback does not delay the end of the stream.
import type { CloseReason } from '../../types/stream.ts'

export type Cleanup = (reason: CloseReason) => unknown

export class Cleanups {
  readonly #onError: (err: unknown) => void
  readonly #onSettled: () => void
  #callbacks: Cleanup[] = []
  #reason: CloseReason | undefined
  /** The number of callbacks that have not settled. */
  running = 0

  /** Calls `onError` for each callback that fails, and `onSettled` after each callback. */
  constructor (onError: (err: unknown) => void, onSettled: () => void) {
    this.#onError = onError
    this.#onSettled = onSettled
  }

  /** Adds a callback. Calls the callback at once if `run` was called before. */
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
