// A response: open, write, finish, abort. This file and socket.ts hold everything that differs between HTTP/1.1 and HTTP/2.
import { OutgoingMessage, type OutgoingHttpHeaders, type ServerResponse } from 'node:http'
import { constants, type ServerHttp2Stream } from 'node:http2'
import type { Socket } from 'node:net'
import type { SSEReplyInterface } from '@fastify/sse'
import { DelayQueue, type Delayed } from '../delay-queue.ts'
import { chunkOf, type Serializer, type SharedEvent } from '../event.ts'
import { afterReading } from '../wait.ts'
import { breakOff, closeWithSocket, restoreSocket, timesOutWithin, watchPeer, watchStalls, type RawResponse, type SocketOptions } from './socket.ts'

/** The events of a response. */
export interface ResponseListener {
  /** The response has finished, the connection broke, or `abort` was called. Called once. */
  responseClosed (): void
  /** The connection can take more. Called after a `write` that returned `false`. */
  responseDrained (): void
  /** The client has read nothing for `stallTimeout` although data is queued. */
  clientStalled (): void
  /** The server's own timeout of quiet connections, Fastify's `connectionTimeout`, breaks the connection off. */
  connectionTimedOut (): void
}

// @fastify/sse sets these properties but does not declare them: https://github.com/fastify/sse/blob/main/index.js
export type SSEContext = SSEReplyInterface & { readonly serializer?: Serializer, reply?: { readonly raw: unknown }, heartbeatInterval?: number }

const RESOLVED = Promise.resolve()

// Many streams end soon, and never need a watched socket.
const UNWATCHED_MS = 1_000
const unwatched = new DelayQueue<StreamResponse>(UNWATCHED_MS, response => response.watch())

// A timer for each response, as in @fastify/sse, would take more memory and time.
class Recurring {
  readonly #queues = new Map<number, DelayQueue<StreamResponse>>()
  readonly #onDue: (response: StreamResponse) => void
  readonly #keepsAlive: boolean

  constructor (onDue: (response: StreamResponse) => void, keepsAlive: boolean) {
    this.#onDue = onDue
    this.#keepsAlive = keepsAlive
  }

  /** The responses that have something to do after `interval` milliseconds. `undefined` if `interval` is not a delay. */
  every (interval: number): DelayQueue<StreamResponse> | undefined {
    // Node treats a longer delay as 1 ms.
    if (!(interval > 0 && interval < 2 ** 31)) return undefined
    let queue = this.#queues.get(interval)
    if (queue === undefined) this.#queues.set(interval, queue = new DelayQueue(interval, this.#onDue, this.#keepsAlive))
    return queue
  }
}

const heartbeats = new Recurring(response => response.beat(), true)
const stallChecks = new Recurring(response => response.checkStall(), false)

// A closure for each response would take more memory.
const kResponse = Symbol('octa-star-streams.response')
type Listened = RawResponse & { [kResponse]: StreamResponse }

export class StreamResponse {
  readonly #raw: RawResponse
  #sse: SSEContext | undefined
  #options: SocketOptions | undefined
  #listener: ResponseListener | undefined
  #closed: boolean
  #hasBody = false
  #isFlushed = false
  #unwatched: Delayed<StreamResponse> | undefined
  #heartbeats: DelayQueue<StreamResponse> | undefined
  #heartbeat: Delayed<StreamResponse> | undefined
  /** Set while nothing is known to wait for the client. */
  #stallCheck: Delayed<StreamResponse> | undefined
  #watching = false
  #watchesStalls = false
  #awaitsDrain = false
  /** Over HTTP/2, while data waits for the client. */
  #stallTimer: NodeJS.Timeout | undefined
  #onPieceSent: ((error?: Error | null) => void) | undefined
  #finishTimer: NodeJS.Timeout | undefined
  /** The turn of the last write to the socket itself. */
  #writtenIn = 0
  #isEnding = false
  /** The headers of the reply, for the head. Set when Fastify hands the response over, and dropped when the head is written. */
  headers: OutgoingHttpHeaders | undefined

  constructor (raw: RawResponse) {
    this.#raw = raw
    const isQueued = raw.socket === null
    if (isQueued) closeWithSocket(raw)
    // The client may have disconnected during an earlier hook, and `close` is emitted only once.
    this.#closed = isQueued ? raw.req.socket.destroyed : this.#isSevered
    // The response's `close` comes after every end. The request's `close` comes as soon as the body has been read:
    // https://nodejs.org/api/http.html#event-close_2
    const listened = raw as Listened
    listened[kResponse] = this
    listened.on('close', StreamResponse.onClose)
    if (raw.stream !== undefined) {
      this.#onPieceSent = error => { if (!error) this.#noteProgress() }
      raw.stream.once('aborted', destroyReset)
    }
  }

  // HTTP/2's compatibility layer has neither `destroyed` nor `writableNeedDrain`, but the HTTP/2 stream has both:
  // https://github.com/nodejs/node/blob/v20.x/lib/internal/http2/compat.js
  get #carrier (): ServerResponse | ServerHttp2Stream {
    return this.#raw.stream ?? this.#raw
  }

  // True if the connection is cut, or about to be, although `close` has not come yet. After a `Connection: close` answer
  // Node hands the ended socket to the next pipelined request: ending that response would throw and end the process.
  get #isSevered (): boolean {
    const { stream } = this.#raw
    return stream === undefined ? this.#raw.destroyed || this.#raw.socket?.writable === false : stream.destroyed || stream.closed
  }

  // HTTP/2 buffers unsent data in the session, which `writableLength` does not count: never assume that the data was handed over.
  get #isHandedOver (): boolean {
    return this.#raw.stream === undefined && this.#raw.writableLength === 0
  }

  /** The socket, if the response sends chunks and nothing waits for the socket. A queued pipelined response has no socket yet. */
  get #idleSocket (): Socket | undefined {
    if (!sendsChunks(this.#raw)) return undefined
    const { socket } = this.#raw
    return socket !== null && socket.writableLength === 0 && socket.writableCorked === 0 ? socket : undefined
  }

  get closed (): boolean {
    return this.#closed
  }

  /** `true` if the client has disconnected, even if the `close` event has not come yet. */
  get isDisconnected (): boolean {
    return this.#closed || this.#isSevered
  }

  get headSent (): boolean {
    return this.#raw.headersSent
  }

  /** `true` while earlier writes wait for the client. */
  get blocked (): boolean {
    return this.#carrier.writableNeedDrain
  }

  /** How much of what was written waits for the client. Unit: bytes, or characters if Node keeps strings. */
  get buffered (): number {
    return this.#carrier.writableLength
  }

  listen (listener: ResponseListener): void {
    this.#listener = listener
    // A response with this listener breaks the connection off in Node's place: https://nodejs.org/api/http.html#event-timeout
    if (this.#raw.stream === undefined && timesOutWithin(this.#raw, Infinity)) this.#raw.on('timeout', StreamResponse.onServerTimeout)
  }

  /** From now on, a call of the raw response's `end` that does not come from this object ends nothing, and calls `onForeignEnd` instead. */
  guardEnd (onForeignEnd: () => void): void {
    const { end } = this.#raw
    this.#raw.end = (...args: unknown[]) => {
      if (this.#isEnding) return Reflect.apply(end, this.#raw, args)
      onForeignEnd()
      return this.#raw
    }
  }

  /** Sends the head in this turn of the event loop, so that the client's `open` event does not wait for the first event. */
  open (sse: SSEContext, options: SocketOptions): void {
    this.#sse = sse
    this.#options = options
    // Without this @fastify/sse would end the response as soon as the handler settles.
    sse.keepAlive()
    // An application that registers @fastify/sse itself may have passed anything.
    this.#heartbeats = heartbeats.every(Number(sse.heartbeatInterval ?? 0))
    // The response sends the heartbeats itself.
    sse.heartbeatInterval = 0
    writeHead(this.#raw, sse, this.headers ?? {})
    this.headers = undefined
    // After the microtasks of this turn, in which the handler goes on and sends the first events. The tick queue alone may run
    // before the microtasks: https://nodejs.org/api/process.html#when-to-use-queuemicrotask-vs-processnexttick
    RESOLVED.then(() => { process.nextTick(flush, this) })
  }

  /**
   * Sends the head. Events that the handler sends at once leave in the same packet as the head. Firefox hides a response until
   * the first byte of the body arrives, so a head without events takes an empty line along. Parsers ignore that line:
   * https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
   */
  flush (): void {
    if (this.#closed || this.#raw.writableEnded || this.#raw.destroyed) return
    if (!this.#hasBody) writeFirstByte(this.#raw)
    this.#isFlushed = true
    this.#beatLater()
    if (this.#raw.stream === undefined) discardRequestBody(this.#raw)
    if (this.#awaitsDrain || this.#options!.stallTimeout < UNWATCHED_MS || timesOutWithin(this.#raw, UNWATCHED_MS)) this.watch()
    else this.#unwatched = unwatched.add(this)
  }

  /** Starts to watch for a client that is dead or reads nothing. */
  watch (): void {
    this.#cancelWatch()
    if (this.#watching) return
    this.#watching = true
    joinHead(this.#raw)
    watchPeer(this.#raw, this.#options!)
    // To the server a quiet stream is an idle socket.
    if (timesOutWithin(this.#raw, Infinity)) this.#watchStalls()
    else this.checkStall()
  }

  /**
   * Watches for stalls if data waits for the client. Called every `stallTimeout`, because Node tells only of more than `writableHighWaterMark`
   * that waits, and a client may also leave less unread. A timeout of the socket would be simpler, but the server would emit `timeout` for
   * each quiet stream.
   */
  checkStall (): void {
    this.#stallCheck = undefined
    if (this.buffered === 0) this.#stallCheck = stallChecks.every(this.#options!.stallTimeout)?.add(this)
    else if (this.#raw.stream === undefined) this.#watchStalls()
    else this.#watchStallsOverHttp2(this.#raw.stream)
  }

  #watchStalls (): void {
    if (this.#watchesStalls) return
    this.#watchesStalls = true
    this.#cancelStallCheck()
    if (this.#options!.stallTimeout !== Infinity) this.#raw.off('timeout', StreamResponse.onServerTimeout)
    watchStalls(this.#raw, this.#options!, StreamResponse.onTimeout)
  }

  /**
   * Writes `event`. Returns `false` if the client does not keep up, and then calls `responseDrained` once the client has
   * caught up. Also returns `false`, without a later `responseDrained`, if the connection is cut.
   */
  write (event: string | SharedEvent): boolean {
    // Between a destroy and the `close` event, a write would emit an error.
    if (this.#isSevered) return false
    this.#hasBody = true
    if (this.#isFlushed && typeof event !== 'string' && this.#writeAtOnce(event)) return true
    const keepsUp = this.#put(event)
    // Most clients keep up, so most responses never need this listener.
    if (!keepsUp && !this.#awaitsDrain) this.#awaitDrain()
    return keepsUp
  }

  #put (event: string | SharedEvent): boolean {
    if (this.#raw.stream !== undefined) return writePieces(this.#raw, event, this.#onPieceSent)
    return sendsChunks(this.#raw) ? writeChunk(this.#raw, event, this.#isFlushed) : writeWhole(this.#raw, event, this.#isFlushed)
  }

  /**
   * Writes `event` to the socket itself, which takes a quarter less time, if nothing else waits for the socket. Only once per turn:
   * `response.write` puts all further events of the turn into one packet. Returns `false` if the event was not written.
   */
  #writeAtOnce ({ chunk }: SharedEvent): boolean {
    const socket = this.#idleSocket
    const turn = presentTurn()
    // A larger chunk would need the socket's `drain` event, which Node passes on only after a write to the response.
    if (socket === undefined || this.#writtenIn === turn || chunk.length >= socket.writableHighWaterMark) return false
    this.#writtenIn = turn
    return socket.write(chunk)
  }

  /** Ends the response cleanly after `lastEvent`. If the client has not read everything after `grace` milliseconds, aborts. */
  finish (lastEvent: string, grace: number): void {
    if (this.#closed || this.#isSevered) return
    if (lastEvent !== '' && !this.#writeLastChunks(lastEvent)) this.#put(lastEvent)
    this.#isEnding = true
    this.#sse?.close()
    this.#isEnding = false
    this.#cancelWatch()
    this.#cancelStallCheck()
    this.#stopHeartbeat()
    if (this.#watching) restoreSocket(this.#raw, this.#options!)
    // If the kernel has taken everything, `close` follows by itself.
    if (!this.#isHandedOver) this.#finishTimer = setTimeout(() => this.abort(), grace)
  }

  /**
   * Writes the last event and the last chunk in a single piece, to the socket itself, if nothing else waits for the socket. Node would write
   * them as two pieces, which takes longer. Returns `false` if nothing was written.
   */
  #writeLastChunks (lastEvent: string): boolean {
    const socket = this.#idleSocket
    if (socket === undefined || !this.#isFlushed) return false
    socket.write(chunkOf(lastEvent) + LAST_CHUNK)
    // Node must not add the last chunk again.
    this.#raw.chunkedEncoding = false
    return true
  }

  /**
   * Answers without a stream, before the head was sent. Does nothing if the client has disconnected. Breaks the response off if Node
   * refuses the head, for example because of a header of the reply.
   */
  answer (statusCode: number, headers: Record<string, string> = {}, body = ''): void {
    if (this.isDisconnected) return
    this.#raw.removeHeader('content-type')
    this.#raw.removeHeader('cache-control')
    const { 'content-type': _type, 'cache-control': _caching, ...kept } = this.headers ?? {}
    this.#isEnding = true
    try {
      this.#raw.writeHead(statusCode, { ...kept, ...headers }).end(body)
    } catch {
      this.abort()
    }
    this.#isEnding = false
  }

  /** Breaks the response off, so that the client sees an error. Destroys the connection, or over HTTP/2 only the HTTP/2 stream. */
  abort (): void {
    if (this.#closed) return
    // Send the head first, so that the client knows that the server accepted the request.
    if (this.headSent && !this.#isFlushed && !this.#raw.writableEnded) flushHead(this.#raw)
    denyAbort(this.#raw)
    if (this.#raw.stream === undefined) breakOff(this.#raw, this.headSent)
    else if (this.#raw.stream.closed) this.#raw.stream.destroy()
    else this.#raw.stream.close(constants.NGHTTP2_CANCEL)
    // Not left to `close`, which a queued pipelined response never emits.
    this.#markClosed()
  }

  static onTimeout (this: RawResponse): void {
    if (this.writableLength > 0) (this as Listened)[kResponse].#listener?.clientStalled()
  }

  static onServerTimeout (this: RawResponse): void {
    const response = (this as Listened)[kResponse]
    response.#listener?.connectionTimedOut()
    response.abort()
  }

  static onClose (this: RawResponse): void {
    (this as Listened)[kResponse].#markClosed()
  }

  #markClosed (): void {
    if (this.#closed) return
    this.#closed = true
    clearTimeout(this.#finishTimer)
    this.#stopStallTimer()
    this.#cancelWatch()
    this.#cancelStallCheck()
    this.#stopHeartbeat()
    this.#listener?.responseClosed()
  }

  #cancelWatch (): void {
    if (this.#unwatched === undefined) return
    unwatched.delete(this.#unwatched)
    this.#unwatched = undefined
  }

  #cancelStallCheck (): void {
    if (this.#stallCheck === undefined) return
    stallChecks.every(this.#options!.stallTimeout)!.delete(this.#stallCheck)
    this.#stallCheck = undefined
  }

  /** Sends a comment, so that nobody on the way takes a quiet connection for dead, and again after the interval. */
  beat (): void {
    // A connection on which data waits is not quiet.
    if (!this.#isSevered && this.buffered === 0) this.#put(': heartbeat\n\n')
    this.#beatLater()
  }

  #beatLater (): void {
    this.#heartbeat = this.#heartbeats?.add(this)
  }

  #stopHeartbeat (): void {
    if (this.#heartbeat !== undefined) this.#heartbeats!.delete(this.#heartbeat)
    // A response that is over before its head was flushed must not begin to beat.
    this.#heartbeat = this.#heartbeats = undefined
  }

  #awaitDrain (): void {
    this.#awaitsDrain = true
    if (this.#isFlushed) this.watch()
    if (this.#raw.stream === undefined) this.#watchStalls()
    else this.#watchStallsOverHttp2(this.#raw.stream)
    this.#raw.once('drain', () => {
      this.#awaitsDrain = false
      this.#listener?.responseDrained()
    })
  }

  /** Node's timeout of an HTTP/2 stream restarts when any stream of the session sends, and cannot show that this stream stalls. */
  #watchStallsOverHttp2 (stream: ServerHttp2Stream): void {
    const { stallTimeout } = this.#options!
    if (stallTimeout === Infinity || this.#stallTimer !== undefined) return
    this.#cancelStallCheck()
    // Otherwise Node would pass on all queued pieces as one write, which is complete only when the client has read every piece:
    // https://nodejs.org/api/stream.html#writable_writevchunks-callback
    stream._writev = undefined
    this.#startStallTimer()
  }

  #startStallTimer (): void {
    clearTimeout(this.#stallTimer)
    // A standstill of this process must not pass for a standstill of the client.
    const timer = setTimeout(() => afterReading(() => { if (this.#stallTimer === timer) this.#listener?.clientStalled() }), this.#options!.stallTimeout).unref()
    this.#stallTimer = timer
  }

  /** Over HTTP/2 the client has read a piece. */
  #noteProgress (): void {
    if (this.#stallTimer === undefined) return
    if (this.buffered > 0) return this.#startStallTimer()
    this.#stopStallTimer()
    if (this.#watching) this.checkStall()
  }

  #stopStallTimer (): void {
    clearTimeout(this.#stallTimer)
    this.#stallTimer = undefined
  }
}

/**
 * When a client resets a stream with NO_ERROR while data waits for the client, Node neither destroys the stream nor emits `close`, and the
 * session never ends (`kMaybeDestroy` in https://github.com/nodejs/node/blob/v20.x/lib/internal/http2/core.js). After any other reset Node
 * destroys the stream itself, and must first have sent a reset of our own.
 */
function destroyReset (this: ServerHttp2Stream): void {
  // Not in the turn in which Node reads the reset, see `refuseRequest`.
  if (this.rstCode === constants.NGHTTP2_NO_ERROR) setImmediate(() => this.destroy())
}

function writeFirstByte (raw: RawResponse): void {
  if (!sendsChunks(raw)) {
    writeWhole(raw, '\n', false)
    return
  }
  // Node prepends the head to the chunk and writes both at once. A header is latin1.
  raw.cork()
  writePiece(raw, EMPTY_LINE, 'latin1')
  raw.uncork()
}

const EMPTY_LINE = chunkOf('\n')
const LAST_CHUNK = '0\r\n\r\n'

/**
 * Node keeps the head for the life of the response (`_header` in https://github.com/nodejs/node/blob/v20.x/lib/_http_outgoing.js), and V8 keeps
 * the many strings of which Node made the head, half a KiB, until somebody reads the head.
 */
function joinHead (raw: RawResponse & { readonly _header?: unknown }): void {
  if (typeof raw._header === 'string') /^/.test(raw._header)
}

// Node's flushHeaders encodes the head as UTF-8, but a header is latin1. https://github.com/nodejs/node/blob/v20.x/lib/_http_outgoing.js
function flushHead (raw: RawResponse): void {
  if (isPlain(raw)) raw.write('', 'latin1')
  else raw.flushHeaders()
}

// Node joins a string with a head that is not sent yet, and encodes both in the encoding of the string. A head is latin1.

/** Writes an event where `sendsChunks` is `false`. */
function writeWhole (raw: RawResponse, event: string | SharedEvent, isHeadSent: boolean): boolean {
  if (typeof event !== 'string') return raw.write(event.bytes)
  return raw.write(isHeadSent || raw.chunkedEncoding ? event : Buffer.from(event))
}

/** Writes an event as a chunk of HTTP/1.1 (RFC 9112, section 7.1) in a single piece. Node would write four pieces, which takes longer. */
function writeChunk (raw: RawResponse, event: string | SharedEvent, isHeadSent: boolean): boolean {
  if (typeof event !== 'string') return writePiece(raw, event.chunk)
  const chunk = chunkOf(event)
  if (isHeadSent) return writePiece(raw, chunk, 'utf8')
  const isAscii = Buffer.byteLength(event) === event.length
  return isAscii ? writePiece(raw, chunk, 'latin1') : writePiece(raw, Buffer.from(chunk))
}

/** Writes a chunk as it is: Node does not encode the chunk as a chunk once more. */
function writePiece (raw: RawResponse, chunk: string | Buffer, encoding?: BufferEncoding): boolean {
  raw.chunkedEncoding = false
  const keepsUp = raw.write(chunk, encoding!)
  raw.chunkedEncoding = true
  return keepsUp
}

// A client of HTTP/2 reads a large event in many steps. Only a write that is complete shows progress.
const PIECE = 16_384

/** Writes `event` over HTTP/2, and calls `onSent` after each piece. */
function writePieces (raw: RawResponse, event: string | SharedEvent, onSent: (() => void) | undefined): boolean {
  const whole = typeof event === 'string' ? event : event.bytes
  if (whole.length <= PIECE) return raw.write(whole, onSent)
  const bytes = typeof whole === 'string' ? Buffer.from(whole) : whole
  let keepsUp = true
  for (let start = 0; start < bytes.length; start += PIECE) keepsUp = raw.write(bytes.subarray(start, start + PIECE), onSent)
  return keepsUp
}

let turn = 1
let isTurnNumbered = false

/** The number of this turn of the event loop. */
function presentTurn (): number {
  if (!isTurnNumbered) {
    isTurnNumbered = true
    process.nextTick(endTurn)
  }
  return turn
}

function endTurn (): void {
  isTurnNumbered = false
  turn++
}

// HTTP/1.0 and HTTP/2 have no chunks. Code that replaces `write` expects the text alone: `inject`, and middleware that compresses.
function sendsChunks (raw: RawResponse): boolean {
  return raw.chunkedEncoding && isPlain(raw)
}

/** Whether `raw` is a response over HTTP/1 whose `write` is Node's. */
function isPlain (raw: RawResponse): boolean {
  return raw.write === OutgoingMessage.prototype.write
}

// Fastify runs onRequestAbort hooks if `aborted` is true when the request closes, but here the server breaks the connection off:
// https://github.com/fastify/fastify/blob/main/lib/route.js
function denyAbort ({ req }: RawResponse): void {
  if (!req.aborted) Object.defineProperty(req, 'aborted', { get: () => false, set () {} })
}

// Fastify does not read the body of a GET, and Node does not notice a disconnect behind a large unread body. A request
// without a body is left alone: reading would emit the request's `close`, on which onRequestAbort and request.signal depend.
// The headers decide, because a stream may open before Node marks a request without a body as complete (RFC 9112, section 6.3).
function discardRequestBody ({ req }: RawResponse): void {
  if (req.method !== 'GET' || req.complete) return
  if (req.headers['transfer-encoding'] !== undefined || Number(req.headers['content-length']) > 0) req.resume()
}

// Stands in for the reply while @fastify/sse takes note that the head was written. Otherwise @fastify/sse would set every header a second
// time, which takes longer than everything else about the head.
const REPLY_WITH_HEAD = { raw: { setHeader () {}, writeHead () {} }, getHeaders: () => ({}) }

/**
 * Writes the head with `headers`, and the headers of @fastify/sse. Node would store headers that are set one by one, and keep them for the
 * life of the response: https://github.com/nodejs/node/blob/v20.x/lib/_http_server.js (`writeHead`).
 */
function writeHead (raw: RawResponse, sse: SSEContext, headers: OutgoingHttpHeaders): void {
  const { reply } = sse
  // A version of @fastify/sse that keeps the reply elsewhere writes the head as it always did.
  if (reply?.raw !== raw) return sse.sendHeaders()
  headers['content-type'] = 'text/event-stream'
  headers['cache-control'] ??= 'no-cache'
  headers['x-accel-buffering'] ??= 'no'
  raw.writeHead(raw.statusCode, headers)
  sse.reply = REPLY_WITH_HEAD
  sse.sendHeaders()
  sse.reply = reply
}

function flush (response: StreamResponse): void {
  response.flush()
}
