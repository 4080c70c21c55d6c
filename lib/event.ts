// A message -> the text of one event, from which no content can break out.
import { FST_ERR_OCTA_STAR_EVENT, show } from './errors.ts'
import { FAREWELL } from './farewell.ts'
import type { StreamMessage } from '../types/index.ts'

export type Serializer = (data: unknown) => string

// CR, LF and CRLF each end a line: https://html.spec.whatwg.org/#parsing-an-event-stream
const LINE_END = /\r\n|\r|\n/

// A client sends an id back in a header. That has no control character but the tab (RFC 9110, 5.5): to any other Node answers
// 400, at which an EventSource stops for good. It loses the spaces and tabs around it: what is left must be no farewell's id.
const NO_ID = new RegExp(`[^\\t -~\\u0080-\\uffff]|^[\\t ]*${FAREWELL}`)

/** @throws FST_ERR_OCTA_STAR_EVENT when a field has no representation in the event stream format */
export function formatEvent (message: string | StreamMessage, serialize: Serializer): string {
  if (typeof message === 'string') return `${dataLines(message)}\n`
  if (typeof message !== 'object' || message === null) throw new FST_ERR_OCTA_STAR_EVENT('data', 'in a message', show(message))

  const { id, event, data, retry } = message
  let text = ''
  if (event !== undefined) text += eventLine(event)
  if (id !== undefined) text += idLine(id)
  if (retry !== undefined) text += retryLine(retry)
  if (data !== undefined) text += dataLines(typeof data === 'string' ? data : serialized(data, serialize))
  // Without any data line a browser drops the event.
  else if (event !== undefined) text += 'data:\n'
  return `${text}\n`
}

function dataLines (data: string): string {
  // Most events are one line: no array for them.
  if (!LINE_END.test(data)) return `data: ${data}\n`
  return data.split(LINE_END).map(line => `data: ${line}\n`).join('')
}

function serialized (data: unknown, serialize: Serializer): string {
  const text = serialize(data)
  // JSON.stringify gives undefined for a function or a symbol.
  if (typeof text !== 'string') throw new FST_ERR_OCTA_STAR_EVENT('data', 'something that the serializer makes a string of', show(data))
  return text
}

function eventLine (event: unknown): string {
  if (typeof event !== 'string' || LINE_END.test(event)) {
    throw new FST_ERR_OCTA_STAR_EVENT('event', 'a string without a line end', show(event))
  }
  return `event: ${event}\n`
}

function idLine (id: unknown): string {
  if (typeof id !== 'string' || NO_ID.test(id)) {
    throw new FST_ERR_OCTA_STAR_EVENT('id', `a string without control characters that does not begin with '${FAREWELL}'`, show(id))
  }
  return `id: ${id}\n`
}

function retryLine (retry: unknown): string {
  if (!Number.isSafeInteger(retry) || (retry as number) < 0) {
    throw new FST_ERR_OCTA_STAR_EVENT('retry', 'a whole number of milliseconds from 0', show(retry))
  }
  return `retry: ${retry}\n`
}
