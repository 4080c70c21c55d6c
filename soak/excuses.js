// When a check cannot hold: while Redis is away, while the machine held up a process, and after `replaceTimeout`. Everything else counts as lost.
import { clock, HEAL, LIMITS, LOOK_MS, SAMPLE_MS } from './settings.js'

/** The machine held up a process that could not work for longer than this. Unit: milliseconds. */
const HELD_UP = 500
const HELD_UP_WHAT = 'the machine held up the driver or Redis'
/** Redis decides which of two starts in two processes came first. Starts this close may be in the opposite order. Unit: milliseconds. */
const UNORDERED = 100

export class Excuses {
  #ledger
  #servers
  #replaceTimeout
  #across
  #lateness
  #troubles = []
  #lookedAt = clock()

  /** `lateness` is that of this process, which holds the clients and the proxies. */
  constructor (ledger, servers, replaceTimeout, lateness) {
    this.#ledger = ledger
    this.#servers = servers
    this.#replaceTimeout = replaceTimeout
    this.#across = servers.length > 1
    this.#lateness = lateness
  }

  /** From `from` until `HEAL` after a call of the returned function, everything that needs Redis may fail. */
  trouble (what, detail = '', from = clock()) {
    const trouble = { what, from, to: Infinity }
    this.#troubles.push(trouble)
    this.#ledger.note(undefined, `${what} ${detail} ...`, from)
    return (at = clock()) => {
      trouble.to = at + HEAL
      this.#ledger.note(undefined, `... ${what} ${detail}: over`, at)
    }
  }

  /** What kept the processes from Redis, if anything did. */
  troubleBetween (from, to) {
    return this.#across ? this.#troubles.find(trouble => trouble.from <= to && trouble.to >= from)?.what : undefined
  }

  troubled (from, to) {
    return this.troubleBetween(from, to) !== undefined
  }

  /** The machine held up this process, which is the network too, or Redis. */
  heldUp (from, to) {
    this.#ledger.did(`times ${HELD_UP_WHAT}`)
    for (const server of this.#servers) server.heldUp(from, to)
    if (this.#across) this.#troubles.push({ what: HELD_UP_WHAT, from, to: to + HEAL })
  }

  /** To be called every `LOOK_MS`, and with each server's samples. */
  look () {
    const now = clock()
    if (now - this.#lookedAt > LOOK_MS + HELD_UP) this.heldUp(this.#lookedAt, now)
    this.#lookedAt = now
    this.#troubles = this.#troubles.filter(({ to }) => to > now - 60_000)
  }

  sample ({ at, process, max }) {
    this.#servers[process].sampledAt = at
    if (max > HELD_UP) this.#servers[process].heldUp(at - max - SAMPLE_MS, at)
  }

  /** For how much of that time the event loop of this process was late. */
  lateBetween (from, to) {
    return this.#lateness.between(from, to)
  }

  /** Whether a process may be late with work that was due by `upTo`. */
  mayBeLate (process, upTo) {
    const server = this.#servers[process]
    // The samples of a late process are late too.
    return server.wasDown(upTo - HEAL - this.#replaceTimeout, clock()) || !(upTo - server.sampledAt <= 2 * SAMPLE_MS)
  }

  /**
   * Whether the server broke the response of `call` off because the machine was late. The client had `closeGrace` to read the end. From the begin
   * of the end until the response was broken off, the event loops of this process and of the server were late for half of that time.
   */
  brokenOff ({ ending, endingAt, endedAt, goneAt, late }) {
    const brokenOffAt = Math.min(endedAt, goneAt)
    // A response that was broken off sooner was not broken off by `closeGrace`. A timer may be early by a fraction of a millisecond.
    if (ending !== 'broken' || brokenOffAt - endingAt < LIMITS.closeGrace - 2) return false
    return late + this.lateBetween(endingAt, brokenOffAt) >= LIMITS.closeGrace / 2
  }

  /** Whether `other` of the key's `calls` was given up, or a successor has waited for the full `replaceTimeout`. */
  pastTimeout (calls, other, at) {
    if (other.givenUpAt !== undefined) return true
    // A process may learn that a stream of another process was given up before the log of the second process is read here.
    if (this.#across && at - other.endedAt > this.#replaceTimeout - 250) return true
    // A process that closes waits for `replaceTimeout` too, and then for nobody.
    const { closingSince } = this.#servers[other.process]
    if (closingSince > other.startAt && at - closingSince > this.#replaceTimeout - 50) return true
    return calls.some(newer => newer !== other && newer.startAt > other.startAt - (this.#across ? UNORDERED : 0) && at - newer.startAt > this.#replaceTimeout - 50)
  }
}
