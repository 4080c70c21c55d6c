// A doubly linked list. An entry leaves the list from anywhere, in constant time.

/** The links of an entry. */
export interface Linked<E> {
  previous: E | undefined
  next: E | undefined
}

/**
 * Finds the oldest entry at once, however many entries have left. The iterator of a Map or Set steps over every entry that was
 * deleted since the table was last rebuilt: https://github.com/v8/v8/blob/main/src/objects/ordered-hash-table.h
 */
export class List<E extends Linked<E>> {
  #first: E | undefined
  #last: E | undefined
  #size = 0

  get size (): number {
    return this.#size
  }

  /** The entry that was added before all others. */
  get first (): E | undefined {
    return this.#first
  }

  /** Returns `true` if `entry` is in this list. Do not ask for an entry of another list. */
  has (entry: E): boolean {
    return entry.previous !== undefined || entry === this.#first
  }

  /** The entries, the oldest first. */
  toArray (): E[] {
    const entries = []
    for (let entry = this.#first; entry !== undefined; entry = entry.next) entries.push(entry)
    return entries
  }

  /** Adds an entry that is in no list. */
  add (entry: E): void {
    entry.previous = this.#last
    if (this.#last === undefined) this.#first = entry
    else this.#last.next = entry
    this.#last = entry
    this.#size++
  }

  /** Removes an entry of this list. */
  delete (entry: E): void {
    const { previous, next } = entry
    if (previous === undefined) this.#first = next
    else previous.next = next
    if (next === undefined) this.#last = previous
    else next.previous = previous
    // Whoever keeps a deleted entry must not keep other entries.
    entry.previous = entry.next = undefined
    this.#size--
  }
}
