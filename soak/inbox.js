// The messages that one stream has received. Each must be for this stream, none may come twice, and a sender's messages to a scope must keep their order.
import { isFor, laneOf } from './messages.js'

export class Inbox {
  /** What is wrong with the messages, if anything is. */
  broken
  #stream
  /** The numbers that have come, by lane. */
  #numbers = new Map()
  /** The greatest number that has come, by lane. */
  #last = new Map()

  constructor (stream) {
    this.#stream = stream
  }

  has ({ number, ...lane }) {
    return this.#numbers.get(laneOf(lane))?.has(number) === true
  }

  take (message) {
    const lane = laneOf(message)
    const { number } = message
    const numbers = this.#numbers.get(lane) ?? new Set()
    const last = this.#last.get(lane) ?? 0
    if (!isFor(message, this.#stream)) this.broken ??= `got a message that is not for this stream: ${JSON.stringify(message)}`
    else if (numbers.has(number)) this.broken ??= `got number ${number} of '${lane}' twice`
    else if (number < last) this.broken ??= `got number ${number} of '${lane}' after number ${last}`
    this.#numbers.set(lane, numbers.add(number))
    this.#last.set(lane, Math.max(last, number))
  }
}
