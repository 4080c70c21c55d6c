// A Map that finds its oldest key at once, however many older keys have been deleted.

/** An entry of a {@link Queue}, in a list. */
interface Entry<K, V> {
  readonly key: K
  readonly value: V
  previous: Entry<K, V> | undefined
  next: Entry<K, V> | undefined
}

/**
 * The iterator of a Map or Set steps over every entry that was deleted since the table was last rebuilt. In a scope of 10,000
 * streams whose oldest stream always leaves first, that would be thousands of steps for each start:
 * https://github.com/v8/v8/blob/main/src/objects/ordered-hash-table.h
 */
export class Queue<K, V> {
  readonly #entries = new Map<K, Entry<K, V>>()
  #first: Entry<K, V> | undefined
  #last: Entry<K, V> | undefined

  get size (): number {
    return this.#entries.size
  }

  /** The key that was added first. */
  get oldest (): K | undefined {
    return this.#first?.key
  }

  get (key: K): V | undefined {
    return this.#entries.get(key)?.value
  }

  /** Adds a key that is not in the queue. */
  add (key: K, value: V): void {
    const entry: Entry<K, V> = { key, value, previous: this.#last, next: undefined }
    if (this.#last === undefined) this.#first = entry
    else this.#last.next = entry
    this.#last = entry
    this.#entries.set(key, entry)
  }

  /** Returns `false` if `key` is not in the queue. */
  delete (key: K): boolean {
    const entry = this.#entries.get(key)
    if (entry === undefined) return false
    const { previous, next } = entry
    if (previous === undefined) this.#first = next
    else previous.next = next
    if (next === undefined) this.#last = previous
    else next.previous = previous
    // V8 may keep a deleted entry in an old table of the Map. The entry must not keep other entries.
    entry.previous = entry.next = undefined
    return this.#entries.delete(key)
  }
}
