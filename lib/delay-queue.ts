// Calls a function for each entry after the same delay. One timer serves all entries, however many come and go.
import { List, type Linked } from './list.ts'
import { afterReading } from './wait.ts'

/** An entry of a {@link DelayQueue}. `value` is `undefined` once the entry has been handled or deleted. */
export interface Delayed<T> extends Linked<Delayed<T>> {
  value: T | undefined
  /** Unit: milliseconds of `performance.now()`. */
  readonly due: number
}

/**
 * Most entries are deleted before they are due. A timer for each entry would cost more than everything else about the entry:
 * Node drops and creates the list of a duration whenever the list runs empty and fills again,
 * https://github.com/nodejs/node/blob/v20.x/lib/internal/timers.js
 */
export class DelayQueue<T> {
  readonly #delay: number
  readonly #onDue: (value: T) => void
  readonly #keepsAlive: boolean
  // In the order of `due`, because every entry waits for the same time.
  readonly #entries = new List<Delayed<T>>()
  #timer: NodeJS.Timeout | undefined

  /** Unit of `delay`: milliseconds. `keepsAlive` says whether entries keep the process alive. */
  constructor (delay: number, onDue: (value: T) => void, keepsAlive = true) {
    this.#delay = delay
    this.#onDue = onDue
    this.#keepsAlive = keepsAlive
  }

  add (value: T): Delayed<T> {
    const entry: Delayed<T> = { value, due: performance.now() + this.#delay, previous: undefined, next: undefined }
    if (this.#entries.size === 0 && this.#keepsAlive) this.#timer?.ref()
    this.#entries.add(entry)
    if (this.#timer === undefined) this.#wakeAt(entry.due)
    return entry
  }

  delete (entry: Delayed<T>): void {
    if (entry.value === undefined) return
    this.#entries.delete(entry)
    // Whoever keeps a deleted entry must not keep the value.
    entry.value = undefined
    // A queue without entries must not keep the process alive.
    if (this.#entries.size === 0) this.#timer?.unref()
  }

  #wakeAt (due: number): void {
    // Node rounds a delay down to whole milliseconds.
    this.#timer = setTimeout(() => afterReading(() => this.#handleDue()), Math.ceil(due - performance.now()))
    if (!this.#keepsAlive) this.#timer.unref()
  }

  #handleDue (): void {
    const now = performance.now()
    try {
      for (let entry = this.#entries.first; entry !== undefined && entry.due <= now; entry = this.#entries.first) {
        const value = entry.value!
        this.delete(entry)
        this.#onDue(value)
      }
    } finally {
      // Not before: an entry that `onDue` adds must not start a second timer.
      this.#timer = undefined
      if (this.#entries.first !== undefined) this.#wakeAt(this.#entries.first.due)
    }
  }
}
