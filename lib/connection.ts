// The wire: one response, opened, written, ended, destroyed, over. What differs between HTTP/1.1 and HTTP/2 is here and in socket.ts.
import type { ServerResponse } from 'node:http'
import { constants, type ServerHttp2Stream } from 'node:http2'
import type { SSEReplyInterface } from '@fastify/sse'
import { breakOff, closeWithSocket, lendSocket, takeBackSocket, type SocketOptions } from './socket.ts'

/** What a stream wants to know of its connection. */
export interface ConnectionListener {
  /** The response is over: finished, aborted or destroyed. Once. */
  over (): void
  /** The connection can take more, after a `write` that returned false. */
  drained (): void
  /** The peer has taken nothing for `stallTimeout`, and something waits for it. */
  stalled (): void
}

/** Node's response; over HTTP/2 its compatibility layer's, which has the stream besides. */
export type RawResponse = ServerResponse & { readonly stream?: ServerHttp2Stream }

export class Connection {
  readonly #raw: RawResponse
  #sse: SSEReplyInterface | undefined
  #options: SocketOptions | undefined
  #listener: ConnectionListener | undefined
  #over: boolean
  #borrows = false
  #awaitsDrain = false
  #stall: NodeJS.Timeout | undefined
  #grace: NodeJS.Timeout | undefined

  constructor (raw: RawResponse) {
    this.#raw = raw
    const waitsForItsTurn = raw.socket === null
    if (waitsForItsTurn) closeWithSocket(raw)
    // The client may have left while a hook of the application worked, and `close` comes once.
    this.#over = waitsForItsTurn ? raw.req.socket.destroyed : this.#severed
    // The one event that always comes, for an aborted GET or POST as for a finished response. The request's own `close`
    // comes with the end of its body.
    raw.on('close', () => this.settle())
  }

  // What carries the response and knows its state: HTTP/2's compatibility layer has neither `destroyed` nor `writableNeedDrain`.
  get #carrier (): ServerResponse | ServerHttp2Stream {
    return this.#raw.stream ?? this.#raw
  }

  // Whether the connection is cut, or about to be, though `close` has not come yet. After a `Connection: close` Node reads on and
  // gives the ended socket to what was pipelined behind it, out of order: to end that response would end the process.
  get #severed (): boolean {
    return this.#carrier.destroyed || (this.#raw.stream === undefined && this.#raw.socket?.writable === false)
  }

  // Over HTTP/2 it is the session that waits for the peer, in a buffer that does not show here.
  get #handedOver (): boolean {
    return this.#raw.stream === undefined && this.#raw.writableLength === 0
  }

  get over (): boolean {
    return this.#over
  }

  /** Whether what was written earlier still waits for the peer. */
  get blocked (): boolean {
    return this.#carrier.writableNeedDrain
  }

  /** How much of what was written waits for the peer. Unit: bytes; characters, where Node keeps strings. */
  get buffered (): number {
    return this.#carrier.writableLength
  }

  listen (listener: ConnectionListener): void {
    this.#listener = listener
  }

  /** Sends the head, so that the client's `onopen` fires before there is any event. */
  open (sse: SSEReplyInterface, options: SocketOptions): void {
    this.#sse = sse
    this.#options = options
    // From here on this class ends the response, not @fastify/sse when the handler settles.
    sse.keepAlive()
    if (this.#raw.stream !== undefined) refuseConnectionHeader(this.#raw)
    sse.sendHeaders()
    process.nextTick(() => this.#begin(options))
    if (this.#raw.stream === undefined) readAway(this.#raw)
  }

  // What the handler sends at once goes with the head, in one packet; a stream that ended meanwhile borrows no socket.
  #begin (options: SocketOptions): void {
    if (this.#raw.writableEnded || this.#raw.destroyed) return
    this.#raw.flushHeaders()
    this.#borrows = true
    lendSocket(this.#raw, options, () => this.#listener?.stalled())
  }

  /** Writes, and returns whether the peer keeps up; if not, `drained` is called when it does again. */
  write (text: string): boolean {
    // After a destroy and before its `close` a write would emit an error.
    if (this.#severed) return false
    const keepsUp = this.#raw.write(text)
    // Most peers do: no listener for them.
    if (!keepsUp && !this.#awaitsDrain) this.#awaitDrain()
    return keepsUp
  }

  /** Ends the response cleanly; destroys it if the peer has not taken all of it after `grace` milliseconds. */
  end (lastWords: string, grace: number): void {
    if (this.#over || this.#severed) return
    if (lastWords !== '') this.#raw.write(lastWords)
    // Stops its heartbeat as well, which would write after the end.
    this.#sse?.close()
    if (this.#borrows) takeBackSocket(this.#raw, this.#options!)
    // Where the kernel has taken all of it, `close` is on its way.
    if (!this.#handedOver) this.#grace = setTimeout(() => this.destroy(), grace)
  }

  /** Breaks the connection off, so that the client sees an error: over HTTP/1.1 the socket, over HTTP/2 the one stream. */
  destroy (): void {
    if (this.#over) return
    // A client that has the head knows that the server took its request.
    if (this.#sse !== undefined && !this.#borrows && !this.#raw.writableEnded) this.#raw.flushHeaders()
    if (this.#raw.stream === undefined) breakOff(this.#raw)
    else this.#raw.stream.close(constants.NGHTTP2_CANCEL)
    // Not left to `close`: a pipelined response that waits for its turn has no socket and emits none.
    this.settle()
  }

  /** Notes that the response is over. Called for `close`, and sooner where it is known sooner. */
  settle (): void {
    if (this.#over) return
    this.#over = true
    clearTimeout(this.#grace)
    clearTimeout(this.#stall)
    this.#listener?.over()
  }

  #awaitDrain (): void {
    this.#awaitsDrain = true
    const { stallTimeout } = this.#options!
    // Over HTTP/2 Node's timeout counts what any stream of the session took, so there it is all or nothing that is taken.
    if (this.#raw.stream !== undefined && stallTimeout !== Infinity) this.#stall = setTimeout(() => this.#listener?.stalled(), stallTimeout).unref()
    this.#raw.once('drain', () => {
      this.#awaitsDrain = false
      clearTimeout(this.#stall)
      this.#listener?.drained()
    })
  }
}

// Fastify leaves the body of a GET unread, and Node sees no end of the client behind a large one. One that is all there is left alone:
// a request that was read emits `close`, and then none when its client leaves, which onRequestAbort and request.signal hang on.
function readAway ({ req }: RawResponse): void {
  if (req.method === 'GET' && !req.complete) req.resume()
}

// @fastify/sse sets `Connection`, which HTTP/2 does not have (RFC 9113, 8.2.2): Node drops it, and prints a warning.
function refuseConnectionHeader (raw: RawResponse): void {
  const { setHeader } = raw
  raw.setHeader = (name, value) => name.toLowerCase() === 'connection' ? raw : setHeader.call(raw, name, value)
}
