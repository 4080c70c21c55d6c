// Formats a message as an event of the stream, so that no content can break out of its field.
import { FST_ERR_OCTA_STAR_EVENT, FST_ERR_OCTA_STAR_MESSAGE, show } from '../errors.ts'
import { FAREWELL } from './ending.ts'
import type { StreamMessage } from '../../types/stream.ts'

export type Serializer = (data: unknown) => string

// CR, LF and CRLF each end a line: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
const LINE_END = /\r\n|\r|\n/

// A client sends the id back in a header, which allows no control character except the tab (RFC 9110, section 5.5). Node
// answers 400 to any other, and an EventSource then stops for good. Headers also lose leading spaces and tabs, so an id
// that starts with these and continues as a farewell's id would arrive as a farewell's id.
const INVALID_ID = new RegExp(`[^\\t -~\\u0080-\\uffff]|^[\\t ]*${FAREWELL}`)

/** @throws FST_ERR_OCTA_STAR_MESSAGE, FST_ERR_OCTA_STAR_EVENT if the message or a field cannot be sent */
export function formatEvent (message: string | StreamMessage, serialize: Serializer): string {
  if (typeof message === 'string') return `${dataLines(message)}\n`
  if (typeof message !== 'object' || message === null) throw new FST_ERR_OCTA_STAR_MESSAGE(show(message))

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
  if (typeof id !== 'string' || INVALID_ID.test(id)) {
    throw new FST_ERR_OCTA_STAR_EVENT('id', `a string without control characters that does not begin with '${FAREWELL}'`, show(id))
  }
  return `id: ${id}\n`
}

function retryLine (retry: unknown): string {
  if (!Number.isSafeInteger(retry) || (retry as number) < 0) throw new FST_ERR_OCTA_STAR_EVENT('retry', 'a whole number of milliseconds from 0', show(retry))
  return `retry: ${retry}\n`
}
