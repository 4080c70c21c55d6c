// Calls a function for each entry after the same delay. One timer serves all entries, however many come and go.
import { afterReading } from './wait.ts'

/** An entry of a {@link DelayQueue}. `value` is `undefined` once the entry has been handled or deleted. */
export interface Delayed<T> {
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
  // In the order of `due`, because every entry waits for the same time. Deleted entries lose their value, because V8 keeps
  // the old tables of a Set until the next full collection.
  readonly #entries = new Set<Delayed<T>>()
  #timer: NodeJS.Timeout | undefined

  /** Unit of `delay`: milliseconds. */
  constructor (delay: number, onDue: (value: T) => void) {
    this.#delay = delay
    this.#onDue = onDue
  }

  add (value: T): Delayed<T> {
    const entry = { value, due: performance.now() + this.#delay }
    this.#entries.add(entry)
    if (this.#timer === undefined) this.#wakeAt(entry.due)
    else if (this.#entries.size === 1) this.#timer.ref()
    return entry
  }

  delete (entry: Delayed<T>): void {
    entry.value = undefined
    // A queue without entries must not keep the process alive.
    if (this.#entries.delete(entry) && this.#entries.size === 0) this.#timer?.unref()
  }

  #wakeAt (due: number): void {
    // Node rounds a delay down to whole milliseconds.
    this.#timer = setTimeout(() => afterReading(() => this.#handleDue()), Math.ceil(due - performance.now()))
  }

  #handleDue (): void {
    const now = performance.now()
    this.#timer = undefined
    for (const entry of this.#entries) {
      if (entry.due > now) {
        this.#wakeAt(entry.due)
        return
      }
      const value = entry.value!
      this.delete(entry)
      this.#onDue(value)
    }
  }
}
