// Every error of this package: what was expected, what came, and the cure.
import createError from '@fastify/error'
import type { CloseReason } from '../types/index.ts'

// Bad use by the developer, at registration.

export const FST_ERR_OCTA_STAR_OPTION = createError<[option: string, expected: string, received: string]>(
  'FST_ERR_OCTA_STAR_OPTION',
  "octa-star-streams: option '%s' must be %s, got %s"
)

export const FST_ERR_OCTA_STAR_ALREADY_REGISTERED = createError<[]>(
  'FST_ERR_OCTA_STAR_ALREADY_REGISTERED',
  'octa-star-streams is already registered in this context or a parent of it. Register it once; sibling contexts may each register it'
)

// Bad use by the developer, at the first call.

export const FST_ERR_OCTA_STAR_SCOPE_KEY = createError<[from: string, path: string, received: string]>(
  'FST_ERR_OCTA_STAR_SCOPE_KEY',
  'The scope key passed to %s must be a string, a finite number, a bigint, a boolean, or an array or plain object of those; %s is %s. ' +
  'Pass the identity of the signed-in user or session, and answer the request otherwise where there is none'
)

export const FST_ERR_OCTA_STAR_NAME = createError<[received: string]>(
  'FST_ERR_OCTA_STAR_NAME',
  'The name of a stream must be a string that is not empty, got %s. Leave it out where a page has one stream'
)

export const FST_ERR_OCTA_STAR_ROUTE = createError<[route: string]>(
  'FST_ERR_OCTA_STAR_ROUTE',
  "startStream needs a route with the option `sse`, which %s is not. Declare it with { sse: 'only' }, and after the plugin has " +
  'loaded: await fastify.register(octaStarStreams), or declare the route inside a plugin'
)

export const FST_ERR_OCTA_STAR_STARTED_TWICE = createError<[route: string]>(
  'FST_ERR_OCTA_STAR_STARTED_TWICE',
  'startStream was called twice in one request to %s. A response carries one stream: call it once'
)

export const FST_ERR_OCTA_STAR_REPLY_SENT = createError<[route: string]>(
  'FST_ERR_OCTA_STAR_REPLY_SENT',
  'startStream was called after the reply to %s was sent. Call it before anything else answers'
)

export const FST_ERR_OCTA_STAR_EVENT = createError<[field: string, expected: string, received: string]>(
  'FST_ERR_OCTA_STAR_EVENT',
  "The field '%s' of an event must be %s, got %s"
)

// Bad input from the client. It never touches the holder.

export const FST_ERR_OCTA_STAR_SIGNALS = createError<'FST_ERR_OCTA_STAR_SIGNALS', 400, [source: string, received: string]>(
  'FST_ERR_OCTA_STAR_SIGNALS',
  'The signals in the %s must be a JSON object, got %s',
  400
)

export const FST_ERR_OCTA_STAR_TAB_ID = createError<'FST_ERR_OCTA_STAR_TAB_ID', 400, [received: string]>(
  'FST_ERR_OCTA_STAR_TAB_ID',
  'The tab id must be a string of 1 to 128 characters, got %s',
  400
)

export const FST_ERR_OCTA_STAR_NOT_ACCEPTABLE = createError<'FST_ERR_OCTA_STAR_NOT_ACCEPTABLE', 406, [accept: string]>(
  'FST_ERR_OCTA_STAR_NOT_ACCEPTABLE',
  "A stream is text/event-stream, and the request accepts '%s'. Let the client send Accept: text/event-stream, or declare the route with { sse: 'only' }",
  406
)

export const FST_ERR_OCTA_STAR_LIMIT = createError<'FST_ERR_OCTA_STAR_LIMIT', 429, [limit: number]>(
  'FST_ERR_OCTA_STAR_LIMIT',
  'This scope has %d streams, as many as maxStreamsPerScope allows. Try again when one of them has ended',
  429
)

// Not a fault: how a handler learns that its stream has ended.

const StreamClosed = createError<[reason: CloseReason]>(
  'FST_ERR_OCTA_STAR_STREAM_CLOSED',
  'The stream has ended: %s. Let this error pass through the handler, it is a normal end'
)

export type StreamClosedError = InstanceType<typeof StreamClosed> & { readonly reason: CloseReason }

export function streamClosed (reason: CloseReason): StreamClosedError {
  // `AbortError` is what code that was handed a signal expects to catch.
  return Object.assign(new StreamClosed(reason), { name: 'AbortError', reason })
}

/** Whether `error` says no more than that `closed` happened: itself, or what Node's APIs make of an aborted signal. */
export function isStreamClosed (error: unknown): boolean {
  if (!(error instanceof Error)) return false
  return error.name === 'AbortError' || error instanceof StreamClosed || error.cause instanceof StreamClosed
}

/** A value as an error message shows it: short, and never the secret in a long string. */
export function show (value: unknown): string {
  if (typeof value === 'string') return value.length > 40 ? `a string of ${value.length} characters` : JSON.stringify(value)
  if (typeof value === 'function') return 'a function'
  if (typeof value === 'symbol') return 'a symbol'
  if (Array.isArray(value)) return 'an array'
  if (typeof value === 'object' && value !== null) {
    const prototype = Object.getPrototypeOf(value)
    return prototype === Object.prototype || prototype === null ? 'an object' : `an instance of ${value.constructor?.name ?? 'a class'}`
  }
  return String(value)
}
