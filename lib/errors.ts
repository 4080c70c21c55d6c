// Every error of this package. A message says what was expected, what came instead, and what to do.
import createError from '@fastify/error'
import type { CloseReason } from '../types/stream.ts'

// The developer's and the operator's mistakes, at registration.

export const FST_ERR_OCTA_STAR_OPTION = createError<[option: string, expected: string, received: string]>(
  'FST_ERR_OCTA_STAR_OPTION',
  "octa-star-streams: option '%s' must be %s, got %s"
)

export const FST_ERR_OCTA_STAR_UNKNOWN_OPTION = createError<[option: string, known: string]>(
  'FST_ERR_OCTA_STAR_UNKNOWN_OPTION',
  "octa-star-streams: unknown option '%s'. Known options: %s"
)

export const FST_ERR_OCTA_STAR_ALREADY_REGISTERED = createError<[]>(
  'FST_ERR_OCTA_STAR_ALREADY_REGISTERED',
  'octa-star-streams is already registered in this context or in a parent context. Register it once. Sibling contexts may each register it'
)

export const FST_ERR_OCTA_STAR_DECORATOR = createError<[]>(
  'FST_ERR_OCTA_STAR_DECORATOR',
  'octa-star-streams decorates requests with `tabId`, but `tabId` is already decorated. Give the other decorator a different name'
)

export const FST_ERR_OCTA_STAR_REDIS_VERSION = createError<[version: string]>(
  'FST_ERR_OCTA_STAR_REDIS_VERSION',
  'octa-star-streams: expected Redis 6.2 or later, or Valkey, got Redis %s. Update Redis'
)

// The developer's mistakes, at the first call.

export const FST_ERR_OCTA_STAR_SCOPE_KEY = createError<[from: string, path: string, received: string]>(
  'FST_ERR_OCTA_STAR_SCOPE_KEY',
  'The scope key passed to %s must be a string, a finite number, a bigint, a boolean, or an array or plain object of these, but %s is %s. ' +
  'Pass the identity of the signed-in user or session. If no user is signed in, reply without starting a stream'
)

export const FST_ERR_OCTA_STAR_NAME = createError<[received: string]>(
  'FST_ERR_OCTA_STAR_NAME',
  'The name of a stream must be a non-empty string, got %s. Leave the name out if a page opens only one stream'
)

export const FST_ERR_OCTA_STAR_ROUTE = createError<[route: string]>(
  'FST_ERR_OCTA_STAR_ROUTE',
  "startStream needs a route with the option `sse`, but %s has no such option. Declare the route with { sse: 'only' } after the plugin has " +
  'loaded: write `await fastify.register(octaStarStreams)` first, or declare the route inside a plugin'
)

export const FST_ERR_OCTA_STAR_NOT_IN_HANDLER = createError<[route: string]>(
  'FST_ERR_OCTA_STAR_NOT_IN_HANDLER',
  'startStream was called outside the handler of %s, in a hook or in an error handler. Call startStream in the handler'
)

export const FST_ERR_OCTA_STAR_STARTED_TWICE = createError<[route: string]>(
  'FST_ERR_OCTA_STAR_STARTED_TWICE',
  'startStream was called twice in one request to %s. A response carries one stream: call startStream once'
)

export const FST_ERR_OCTA_STAR_REPLY_SENT = createError<[route: string]>(
  'FST_ERR_OCTA_STAR_REPLY_SENT',
  'startStream was called after the reply to %s was sent. Call startStream before anything else replies'
)

export const FST_ERR_OCTA_STAR_STATUS = createError<[route: string, received: number]>(
  'FST_ERR_OCTA_STAR_STATUS',
  'A stream needs a status whose response has a body, but the status of %s is %d. Leave the status at 200'
)

export const FST_ERR_OCTA_STAR_ON_SEND = createError<[route: string]>(
  'FST_ERR_OCTA_STAR_ON_SEND',
  'An onSend hook transformed the payload of the stream on %s. Let the hook leave payloads of type text/event-stream as they are'
)

export const FST_ERR_OCTA_STAR_NOT_OPEN = createError<[]>(
  'FST_ERR_OCTA_STAR_NOT_OPEN',
  'send() was called before the stream was open. Send to the stream that startStream resolves to'
)

export const FST_ERR_OCTA_STAR_MESSAGE = createError<[received: string]>(
  'FST_ERR_OCTA_STAR_MESSAGE',
  'send() takes a string or { event, id, data, retry }, got %s. To send any other value, pass { data: value }'
)

export const FST_ERR_OCTA_STAR_SOURCE = createError<[received: string]>(
  'FST_ERR_OCTA_STAR_SOURCE',
  'sendAll() takes a Readable, an async iterable or an iterable of messages, got %s. To send a single message, call send()'
)

export const FST_ERR_OCTA_STAR_EVENT = createError<[field: string, expected: string, received: string]>(
  'FST_ERR_OCTA_STAR_EVENT',
  "send(): the field '%s' must be %s, got %s"
)

export const FST_ERR_OCTA_STAR_SEND_OPTION = createError<[option: string, expected: string, received: string]>(
  'FST_ERR_OCTA_STAR_SEND_OPTION',
  "send(): the option '%s' must be %s, got %s"
)

export const FST_ERR_OCTA_STAR_TOO_LARGE = createError<[limit: number, received: number]>(
  'FST_ERR_OCTA_STAR_TOO_LARGE',
  'An event for streams in other processes must have at most %d bytes, got %d bytes. Send a smaller event, or raise the option maxMessageBytes of the cluster adapter'
)

export const FST_ERR_OCTA_STAR_CALLBACK = createError<[method: string, received: string]>(
  'FST_ERR_OCTA_STAR_CALLBACK',
  '%s() takes a function, got %s'
)

export const FST_ERR_OCTA_STAR_CYCLE = createError<[property: string]>(
  'FST_ERR_OCTA_STAR_CYCLE',
  'stream.%s was read in an onClose callback of the same stream. That promise waits for the callback, so awaiting it would never end'
)

export const FST_ERR_OCTA_STAR_STREAM_KEY = createError<[received: string]>(
  'FST_ERR_OCTA_STAR_STREAM_KEY',
  'replaceAndRegister() takes a key made by streamKey(scopeKey, tabId, name), got %s'
)

export const FST_ERR_OCTA_STAR_HOLDER = createError<[expected: string, received: string]>(
  'FST_ERR_OCTA_STAR_HOLDER',
  'A holder must have %s, got %s'
)

// Bad input from the client. None of these errors affects a holder.

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
  "The client must accept text/event-stream, but sent the Accept header '%s'. Send `Accept: text/event-stream`, or declare the route with { sse: 'only' }",
  406
)

export const FST_ERR_OCTA_STAR_CROSS_SITE = createError<'FST_ERR_OCTA_STAR_CROSS_SITE', 403, []>(
  'FST_ERR_OCTA_STAR_CROSS_SITE',
  "A page of another site must not start a stream with the user's cookies. Open the stream from a page of the same site, or with CORS",
  403
)

export const FST_ERR_OCTA_STAR_LIMIT = createError<'FST_ERR_OCTA_STAR_LIMIT', 429, [limit: number]>(
  'FST_ERR_OCTA_STAR_LIMIT',
  'This scope already has %d streams, the maximum that maxStreamsPerScope allows. Try again after a stream has ended',
  429
)

// The cluster's store could not confirm what was asked.

export const FST_ERR_OCTA_STAR_EVICT = createError<'FST_ERR_OCTA_STAR_EVICT', 503, [problem: string]>(
  'FST_ERR_OCTA_STAR_EVICT',
  'Streams in other processes may still be live: %s. The streams of this process have ended. Call evict again',
  503
)

// Not a fault. This error tells a handler that the stream has ended.

const StreamClosed = createError<[reason: CloseReason]>(
  'FST_ERR_OCTA_STAR_STREAM_CLOSED',
  'The stream has ended: %s. This is a normal end. Do not catch this error in the handler'
)

export type StreamClosedError = InstanceType<typeof StreamClosed> & { readonly reason: CloseReason }

export function streamClosed (reason: CloseReason): StreamClosedError {
  // Code that takes an AbortSignal expects the signal's error to be named AbortError.
  return Object.assign(new StreamClosed(reason), { name: 'AbortError', reason })
}

// How Node's APIs and common clients say that a signal was aborted: openai and @anthropic-ai/sdk (APIUserAbortError), axios
// (CanceledError, ERR_CANCELED), got (ERR_ABORTED), undici (UND_ERR_ABORTED), PostgreSQL (57014, query_canceled).
const ABORT_NAMES = new Set(['AbortError', 'CanceledError', 'APIUserAbortError'])
const ABORT_CODES = new Set(['ABORT_ERR', 'ERR_ABORTED', 'ERR_CANCELED', 'UND_ERR_ABORTED', '57014'])

/**
 * Returns `true` if `error` only says that something was aborted: our own error, an abort error of Node or of a common
 * client, the end of the request itself, an error caused by an abort error, or an `AggregateError` of nothing else.
 */
export function isAbort (error: unknown, parents: readonly unknown[] = []): boolean {
  if (!(error instanceof Error) || parents.includes(error)) return false
  const { code } = error as { code?: unknown }
  if (error instanceof StreamClosed || ABORT_NAMES.has(error.name) || ABORT_NAMES.has(error.constructor.name)) return true
  if (typeof code === 'string' && ABORT_CODES.has(code)) return true
  // Node's error for a request whose client has disconnected: https://nodejs.org/api/http.html#class-httpincomingmessage
  if (code === 'ECONNRESET' && error.message === 'aborted') return true
  if (error instanceof AggregateError && error.errors.length > 0) return error.errors.every(each => isAbort(each, [...parents, error]))
  return isAbort(error.cause, [...parents, error])
}

/** Describes a value for an error message. The result is short, and does not contain long strings, which may be secrets. */
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
