// The onClose callbacks of a stream: each runs once, and a failed callback does not delay the end of the stream.
import type { CloseReason } from '../../types/stream.ts'

export type Cleanup = (reason: CloseReason) => unknown

/** The events of a cleanup callback. `callbackStarted` comes when the callback has returned its promise. */
export interface CleanupListener {
  callbackStarting (): void
  callbackStarted (): void
  callbackFailed (err: unknown): void
  callbackSettled (): void
}

export class Cleanups {
  readonly #listener: CleanupListener
  #callbacks: Cleanup[] = []
  #reason: CloseReason | undefined
  /** The number of callbacks that have not settled. */
  running = 0

  constructor (listener: CleanupListener) {
    this.#listener = listener
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
      await this.#start(callback, reason)
    } catch (err) {
      this.#listener.callbackFailed(err)
    }
    this.running--
    this.#listener.callbackSettled()
  }

  #start (callback: Cleanup, reason: CloseReason): unknown {
    this.#listener.callbackStarting()
    try {
      return callback(reason)
    } finally {
      this.#listener.callbackStarted()
    }
  }
}
