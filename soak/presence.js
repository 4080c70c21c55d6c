// Checks the scopes that the processes report as online and offline.
import { firstEnd } from './deliveries.js'
import { HEAL, LIMITS } from './settings.js'

/** How late the ends of streams may be known. All times are in milliseconds. */
const JUDGED_AFTER = HEAL
/** A server reports the beginning of an end with this precision. */
const MARGIN = 50
/** Across processes a report may be this late. Meanwhile a stream may have opened in another process. */
const REPORT_MARGIN = 1_000

export class Presence {
  #ledger
  #excuses
  #across
  #streams
  #online = new Set()
  #offlines = []

  /** `streams` are all streams that have started, and that ended not long ago. */
  constructor (ledger, excuses, across, streams) {
    this.#ledger = ledger
    this.#excuses = excuses
    this.#across = across
    this.#streams = streams
  }

  opened ({ id, scope, key }) {
    // Across processes, another process may have reported the scope, and may have ended since.
    if (!this.#across && !this.#online.has(scope)) this.#ledger.lost('presence', `${id} is open, and nobody has reported ${scope} as online`, key)
  }

  online ({ scope }) {
    this.#ledger.did('scopes that came online')
    if (!this.#across && this.#online.has(scope)) this.#ledger.lost('presence', `${scope} came online twice`)
    this.#online.add(scope)
  }

  offline ({ scope, at }) {
    this.#ledger.did('scopes that went offline')
    // Across processes the report that a scope is online may come from another process, and later.
    if (!this.#across && !this.#online.has(scope)) this.#ledger.lost('presence', `${scope} went offline twice`)
    this.#online.delete(scope)
    this.#offlines.push({ scope, at })
  }

  look (upTo) {
    while (this.#offlines[0]?.at < upTo - JUDGED_AFTER) this.#judge(this.#offlines.shift())
  }

  /** After all streams are gone. */
  end () {
    if (!this.#across && this.#online.size > 0) this.#ledger.lost('presence', `${[...this.#online].join()} did not go offline`)
  }

  #judge ({ scope, at }) {
    if (this.#excuses.troubled(at - REPORT_MARGIN, at)) return
    const openBefore = this.#across ? at - REPORT_MARGIN : at
    for (const stream of this.#streams) {
      const { id, key, openAt } = stream
      if (stream.scope === scope && openAt < openBefore && firstEnd(stream).at > at - LIMITS.offlineDelay + MARGIN) this.#ledger.lost('presence', `${scope} went offline, and ${id} was open`, key)
    }
  }
}
