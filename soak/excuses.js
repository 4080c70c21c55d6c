// When a check cannot hold: while Redis is away, where somebody was not given the machine, past replaceTimeout. All else is lost.
import { clock, HEAL, LOOK_MS, SAMPLE_MS } from './settings.js'

/** Who was kept from working for longer was not given the machine, and says nothing of the plugin. */
const HELD_UP = 500
/** Which of two starts in two processes came first is Redis's to say, and by so much it may be the other one. */
const UNORDERED = 100

export class Excuses {
  #ledger
  #servers
  #replaceTimeout
  #across
  #troubles = []
  #lookedAt = clock()

  constructor (ledger, servers, replaceTimeout) {
    this.#ledger = ledger
    this.#servers = servers
    this.#replaceTimeout = replaceTimeout
    this.#across = servers.length > 1
  }

  /** From now on, until the function it returns is called and some time after: what needs Redis may fail. */
  trouble (what, from = clock()) {
    const trouble = { from, to: Infinity }
    this.#troubles.push(trouble)
    this.#ledger.note(undefined, `${what} ...`, from)
    return (at = clock()) => {
      trouble.to = at + HEAL
      this.#ledger.note(undefined, `... ${what}: over`, at)
    }
  }

  troubled (from, to) {
    return this.#across && this.#troubles.some(trouble => trouble.from <= to && trouble.to >= from)
  }

  /** Who watches, and is the network too, was not given the machine, or Redis was not. */
  heldUp (from, to) {
    this.#ledger.did('times the machine held up the driver or Redis')
    for (const server of this.#servers) server.heldUp(from, to)
    if (this.#across) this.#troubles.push({ from, to: to + HEAL })
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

  /** Whether a process may be late with what it should have done by `upTo`. */
  mayBeLate (process, upTo) {
    const server = this.#servers[process]
    // Its samples come late as well.
    return server.wasDown(upTo - HEAL - this.#replaceTimeout, clock()) || !(upTo - server.sampledAt <= 2 * SAMPLE_MS)
  }

  /** Whether `other`, one of its key's `calls`, was given up, or somebody has waited for it as long as anybody does. */
  pastTimeout (calls, other, at) {
    if (other.givenUpAt !== undefined) return true
    // Another process may be told that a stream was given up before its own process's log is read here.
    if (this.#across && at - other.endedAt > this.#replaceTimeout - 250) return true
    // A process that closes waits as long, and then for nobody.
    const { closingSince } = this.#servers[other.process]
    if (closingSince > other.startAt && at - closingSince > this.#replaceTimeout - 50) return true
    return calls.some(newer => newer !== other && newer.startAt > other.startAt - (this.#across ? UNORDERED : 0) && at - newer.startAt > this.#replaceTimeout - 50)
  }
}
