// How late the event loop of this process was, and when. Tells a response that the machine broke off from a response that the plugin broke off.
import { clock } from './settings.js'

const TICK_MS = 10
/** Node's timers count whole milliseconds, so every timer is late by up to this. */
const GRANULARITY_MS = 1
const KEPT_MS = 60_000

export class Lateness {
  /** The times in which the loop was late, the older first. */
  #late = []
  #dueAt = clock() + TICK_MS
  #ticking = setInterval(() => this.#tick(), TICK_MS).unref()

  /** For how much of the time from `from` to `to` the loop was late. Unit: milliseconds. */
  between (from, to) {
    let sum = overlap({ from: this.#dueAt, to: clock() }, from, to)
    for (let i = this.#late.length - 1; i >= 0 && this.#late[i].to > from; i--) sum += overlap(this.#late[i], from, to)
    return sum
  }

  stop () {
    clearInterval(this.#ticking)
  }

  #tick () {
    const now = clock()
    if (now - this.#dueAt > GRANULARITY_MS) this.#late.push({ from: this.#dueAt, to: now })
    while (this.#late[0]?.to < now - KEPT_MS) this.#late.shift()
    this.#dueAt = now + TICK_MS
  }
}

function overlap (late, from, to) {
  return Math.max(0, Math.min(late.to, to) - Math.max(late.from, from))
}
