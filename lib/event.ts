// Formats a message as an event of the stream, so that content cannot break out of a field. An event for many streams is encoded once.
import { FST_ERR_OCTA_STAR_EVENT, FST_ERR_OCTA_STAR_MESSAGE, show } from './errors.ts'
import type { StreamMessage } from '../types/stream.ts'

export type Serializer = (data: unknown) => string

/** The type of the farewell event, and the prefix of the event's id. No event of the application may use that prefix. */
export const FAREWELL = 'octa-star-closed'

// CR, LF and CRLF each end a line: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
const LINE_END = /\r\n|\r|\n/

// A client sends the id back in a header. Node refuses control characters there, browsers' fetch refuses everything beyond
// U+00FF, and an EventSource does not encode like a header does: printable ASCII and tab alone arrive everywhere as sent.
const VALID_ID = /^[\t -~]*$/
// Headers lose leading spaces and tabs, so an id that starts with these could arrive as a farewell's id.
const LIKE_FAREWELL = new RegExp(`^[\\t ]*${FAREWELL}`)

// Clients count reconnection times in 32 bits. A longer time overflows in browsers and becomes a loop without any wait.
const MAX_RETRY = 2 ** 31 - 1

/** An event that many streams send, in the format of {@link formatEvent}. Encoded when a second stream sends the event. */
export class SharedEvent {
  readonly text: string
  /** Unit: milliseconds. */
  readonly retry: number | undefined
  #isTaken = false
  #bytes: Buffer | undefined
  #chunk: Buffer | undefined

  constructor (text: string, retry: number | undefined) {
    this.text = text
    this.retry = retry
  }

  /** Returns what a stream writes: for the first stream the text, because most events have a single stream, and then the event, whose bytes all further streams share. */
  take (): string | SharedEvent {
    if (this.#isTaken) return this
    this.#isTaken = true
    return this.text
  }

  get bytes (): Buffer {
    this.#bytes ??= Buffer.from(this.text)
    return this.#bytes
  }

  /** The bytes as a chunk of HTTP/1.1. */
  get chunk (): Buffer {
    this.#chunk ??= Buffer.from(chunkOf(this.text))
    return this.#chunk
  }
}

/** `text` as a chunk of HTTP/1.1: RFC 9112, section 7.1. */
export function chunkOf (text: string): string {
  return `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`
}

/** @throws FST_ERR_OCTA_STAR_MESSAGE, FST_ERR_OCTA_STAR_EVENT if the message or a field cannot be sent */
export function formatEvent (message: string | StreamMessage, serialize: Serializer): string {
  if (typeof message === 'string') return `${dataLines(message)}\n`
  if (!isMessage(message)) throw new FST_ERR_OCTA_STAR_MESSAGE(show(message))

  const { id, event, data, retry } = message
  let text = ''
  if (event !== undefined) text += eventLine(event)
  if (id !== undefined) text += idLine(id)
  if (retry !== undefined) text += retryLine(retry)
  if (data !== undefined) text += dataLines(typeof data === 'string' ? data : serialized(data, serialize))
  // Browsers drop an event that has no data line.
  else if (event !== undefined) text += 'data:\n'
  return `${text}\n`
}

// An array, a Buffer or a Map has none of the fields, and would be sent as an empty event.
function isMessage (message: unknown): message is StreamMessage {
  if (typeof message !== 'object' || message === null) return false
  const { id, event, data, retry } = message as StreamMessage
  return id !== undefined || event !== undefined || data !== undefined || retry !== undefined || 'data' in message
}

function dataLines (data: string): string {
  // Most data is a single line, which needs no array.
  if (!LINE_END.test(data)) return `data: ${data}\n`
  return data.split(LINE_END).map(line => `data: ${line}\n`).join('')
}

function serialized (data: unknown, serialize: Serializer): string {
  const text = serialize(data)
  // JSON.stringify returns undefined for a function or a symbol.
  if (typeof text !== 'string') throw new FST_ERR_OCTA_STAR_EVENT('data', 'a value that the serializer turns into a string', show(data))
  return text
}

function eventLine (event: unknown): string {
  if (typeof event !== 'string' || LINE_END.test(event)) throw new FST_ERR_OCTA_STAR_EVENT('event', 'a string without CR or LF', show(event))
  return `event: ${event}\n`
}

function idLine (id: unknown): string {
  const text = typeof id === 'number' && Number.isFinite(id) ? String(id) : id
  if (typeof text !== 'string' || !VALID_ID.test(text) || LIKE_FAREWELL.test(text)) {
    throw new FST_ERR_OCTA_STAR_EVENT('id', `a number, or a string of printable ASCII characters that does not begin with '${FAREWELL}'`, show(id))
  }
  return `id: ${text}\n`
}

function retryLine (retry: unknown): string {
  if (!Number.isSafeInteger(retry) || (retry as number) < 0 || (retry as number) > MAX_RETRY) {
    throw new FST_ERR_OCTA_STAR_EVENT('retry', `a whole number of milliseconds from 0 to ${MAX_RETRY}`, show(retry))
  }
  return `retry: ${retry}\n`
}
