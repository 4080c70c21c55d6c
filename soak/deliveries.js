// Checks each send and each list: which streams a call reached, which streams the call had to reach, and which fault explains each loss.
import { isFor } from './messages.js'
import { HEAL, SLACK } from './settings.js'

/** How long messages may still be on the way to the clients after the call has resolved. All times are in milliseconds. */
const JUDGED_AFTER = HEAL
/** A client that sees a clean end has read everything before the end. The server reports the begin of an end with this precision. */
const CLEAN_MARGIN = 50
/** Data that the client has not read when a connection breaks is lost. A client that the machine holds up reads later. */
const BROKEN_MARGIN = SLACK
/** How long a stream is kept after its end. */
const KEPT_MS = 30_000
/** At least this many messages must reach streams per second of the planned time. An idle machine delivers ten times as many. */
const LEAST_PER_SECOND = 15

const DELIVERED = 'messages delivered'
const DELIVERED_ACROSS = 'messages delivered by another process'

export class Deliveries {
  #ledger
  #servers
  #excuses
  #replyTimeout
  /** All streams of which a server has said that they start. */
  streams = new Set()
  /** The calls that are not judged yet, by id. */
  #calls = new Map()

  constructor (ledger, servers, excuses, replaceTimeout) {
    this.#ledger = ledger
    this.#servers = servers
    this.#excuses = excuses
    this.#replyTimeout = replaceTimeout / 2
  }

  started (stream) {
    this.streams.add(stream)
  }

  /** A process begins to send a message, or to list the streams of a scope. */
  called ({ id, at, process, message, listed }) {
    this.#calls.set(id, { id, process, from: at, message: message ?? { scope: listed }, isList: message === undefined })
  }

  resolved ({ id, at, result, late }) {
    const call = this.#calls.get(id)
    // If the machine held up this process, the call may be given up, or the process may have died, before this word is read.
    if (call !== undefined) Object.assign(call, { to: at, result, late })
  }

  /** Nothing is promised about calls that a process that died had not finished. */
  died (process) {
    for (const { id, to } of this.#callsOf(process)) {
      if (to !== undefined) continue
      this.#calls.delete(id)
      this.#ledger.did('sends and lists that died with their process')
    }
  }

  * #callsOf (process) {
    for (const call of this.#calls.values()) if (call.process === process) yield call
  }

  look (upTo) {
    for (const call of this.#calls.values()) {
      const { id, process, from, to } = call
      if (to === undefined ? upTo - from < this.#replyTimeout + HEAL : upTo - to < JUDGED_AFTER) continue
      this.#calls.delete(id)
      if (to !== undefined) this.#judge(call)
      else if (!this.#servers[process].wasDown(from, upTo)) this.#ledger.lost('results', `the call ${id} has not resolved: ${JSON.stringify(call.message)}`)
    }
    for (const stream of this.streams) {
      if (stream.inbox.broken !== undefined && !stream.reportedInbox) {
        stream.reportedInbox = true
        this.#ledger.lost('messages', `${stream.id} ${stream.inbox.broken}`, stream.key)
      }
      if (serverEnd(stream) < upTo - KEPT_MS || stream.goneAt < upTo - KEPT_MS) this.streams.delete(stream)
    }
  }

  /** Too little may have been sent for the checks to mean anything. `duration` is the planned time in milliseconds. */
  end (duration) {
    const least = duration / 1_000 * LEAST_PER_SECOND
    for (const what of this.#servers.length > 1 ? [DELIVERED, DELIVERED_ACROSS] : [DELIVERED]) {
      const count = this.#ledger.done.get(what) ?? 0
      if (count < least) this.#ledger.lost('results', `${count} ${what}, and ${least} were expected at least`)
    }
  }

  #judge (call) {
    const { id, process, from, to, message, isList } = call
    const listed = isList ? new Set(call.result.map(stream => stream.id)) : undefined
    const result = isList ? call.result.length : call.result
    /** How many streams the call must have reached and told of, and how many at most. */
    let least = 0
    let most = 0
    for (const stream of this.streams) {
      if (!isFor(message, stream)) {
        if (!isList && stream.scope === message.scope && wasLive(stream, from, to)) this.#ledger.did('streams of a scope that a message left out')
        continue
      }
      const isReached = isList ? listed.delete(stream.streamId) : stream.inbox.has(message)
      if (isReached && !isList) this.#ledger.did(DELIVERED)
      if (isReached && !isList && stream.process !== process) this.#ledger.did(DELIVERED_ACROSS)
      if (stream.startAt <= to && !(serverEnd(stream) < from) && stream.refused === undefined) most++
      if (!(stream.openAt < from) || serverEnd(stream) < from) continue
      const explanation = this.#explain(stream, call)
      if (isReached && explanation === undefined && to - from < this.#replyTimeout - CLEAN_MARGIN) least++
      if (isReached) continue
      if (explanation !== undefined) this.#ledger.did(`${isList ? 'streams not listed' : 'messages lost'}: ${explanation}`)
      else if (isList) this.#ledger.lost('results', `the list ${id} of ${message.scope}, which took ${Math.round(to - from)} ms, lacks ${stream.id}`, stream.key)
      else this.#ledger.lost('unexplained', `${stream.id} has not got ${JSON.stringify(message)}, sent by process ${process} to ${result} streams in ${Math.round(to - from)} ms`, stream.key)
    }
    this.#ledger.did(isList ? 'lists' : message.scope === undefined ? 'messages sent to everybody' : 'messages sent to a scope')
    const about = `${id}, ${isList ? `the list of ${message.scope},` : JSON.stringify(message)}`
    if (result > most) this.#ledger.lost('results', `${about} resolved to ${result} streams, and there were ${most}`)
    if (result < least) this.#ledger.lost('results', `${about} resolved to ${result} streams, and reached ${least}`)
    if (listed?.size > 0 && !this.#servers.some(server => server.wasDown(from, to))) this.#ledger.lost('results', `${about} names streams of another scope, or none that there are: ${[...listed].join()}`)
  }

  /** Why a stream that was open when the call began may have been missed. `undefined` if the call had to reach the stream. */
  #explain (stream, { process, from, to, late, isList }) {
    if (stream.deaf && !isList) return 'the client did not read'
    const end = firstEnd(stream)
    // If a reply was missing, a process may have taken the message later.
    const isComplete = to - from < this.#replyTimeout - CLEAN_MARGIN
    const margin = stream.ending === 'clean' && isComplete ? CLEAN_MARGIN : BROKEN_MARGIN + this.#excuses.lateBetween(to, Math.min(end.at, to + 2 * HEAL))
    if (end.at < to + margin) return end.why
    if (stream.process === process) return undefined
    const trouble = this.#excuses.troubleBetween(from, to)
    if (trouble !== undefined) return trouble
    if (this.#servers[stream.process].hasLostMessage(from, to)) return 'messages of Redis were lost'
    if ([process, stream.process].some(index => this.#servers[index].wasDown(from, to))) return 'a process was killed, closed or stopped, or the machine held it up'
    if (isList && !isComplete && late + this.#excuses.lateBetween(from, to) > this.#replyTimeout / 4) return 'the machine was late, and so was a reply'
  }
}

/** When the server said that the end of the stream began. Infinity if the server has not. */
function serverEnd ({ endingAt = Infinity, diedAt = Infinity }) {
  return Math.min(endingAt, diedAt)
}

function wasLive (stream, from, to) {
  return stream.openAt < from && serverEnd(stream) > to
}

/** The first thing that kept the client from reading on. */
export function firstEnd ({ leftAt, pulledAt, diedAt, endingAt, endedAt, reason }) {
  return [
    { at: leftAt, why: 'the client left' },
    { at: pulledAt, why: 'the cable was pulled' },
    { at: diedAt, why: 'the process died' },
    { at: endingAt, why: `the stream ended as ${reason}` },
    { at: endedAt, why: 'the connection broke' }
  ].filter(({ at }) => at !== undefined).sort((a, b) => a.at - b.at)[0] ?? { at: Infinity }
}
