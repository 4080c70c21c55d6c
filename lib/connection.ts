// The wire: one response, opened, written, ended, destroyed, over. The only file that knows HTTP/1.1 from HTTP/2.
import { setMaxListeners } from 'node:events'
import type { ServerResponse } from 'node:http'
import { constants, type ServerHttp2Stream } from 'node:http2'
import { Socket } from 'node:net'
import type { SSEReplyInterface } from '@fastify/sse'

/** What a stream wants to know of its connection. */
export interface ConnectionListener {
  /** The response is over: finished, aborted or destroyed. Once. */
  over (): void
  /** The connection can take more, after a `write` that returned false. */
  drained (): void
  /** The peer has taken nothing for `stallTimeout`, and something waits for it. */
  stalled (): void
}

/** The options of the same names, and what they mean here. */
export interface ConnectionOptions {
  readonly stallTimeout: number
  readonly deadPeerProbe: number
}

/** Node's response; over HTTP/2 its compatibility layer's, which has the stream besides. */
export type RawResponse = ServerResponse & { readonly stream?: ServerHttp2Stream }

// What Node keeps of the server in a socket, and does not declare.
type ServerSocket = Socket & { readonly server?: { timeout?: number, keepAlive?: boolean, keepAliveInitialDelay?: number } }

export class Connection {
  readonly #raw: RawResponse
  #sse: SSEReplyInterface | undefined
  #listener: ConnectionListener | undefined
  #over: boolean
  #grace: NodeJS.Timeout | undefined
  #stallTimeout = Infinity
  #stall: NodeJS.Timeout | undefined
  #probed: Socket | undefined
  #watched: Socket | undefined

  constructor (raw: RawResponse) {
    this.#raw = raw
    // The client may have left while a hook of the application worked, and `close` comes once.
    this.#over = this.#carrier.destroyed
    // The one event that always comes, for an aborted GET or POST as for a finished response. The request's own `close`
    // comes with the end of its body.
    raw.once('close', () => this.settle())
    if (raw.socket === null) this.#watchSocket(raw.req.socket)
  }

  // A pipelined response that waits for its turn has no socket yet, and emits no `close` when the client leaves.
  #watchSocket (socket: Socket): void {
    if (socket.destroyed) this.#over = true
    const left = () => {
      this.settle()
      // Its heartbeat would go on for ever.
      this.#sse?.close()
    }
    // Any number of them may wait on one socket.
    setMaxListeners(0, socket)
    socket.once('close', left)
    this.#raw.once('close', () => socket.off('close', left))
  }

  // What carries the response and knows its state: HTTP/2's compatibility layer has neither `destroyed` nor `writableNeedDrain`.
  get #carrier (): ServerResponse | ServerHttp2Stream {
    return this.#raw.stream ?? this.#raw
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

  /** Sends the head at once, so that the client's `onopen` fires before the first event. */
  open (sse: SSEReplyInterface, { stallTimeout, deadPeerProbe }: ConnectionOptions): void {
    this.#sse = sse
    // From here on this class ends the response, not @fastify/sse when the handler settles.
    sse.keepAlive()
    if (this.#raw.stream !== undefined) refuseConnectionHeader(this.#raw)
    sse.sendHeaders()
    // Node keeps the head back until the first byte of the body.
    this.#raw.flushHeaders()
    this.#raw.on('drain', () => this.#drained())
    const { socket } = this.#raw.req
    // What inject() has in its place can do neither.
    if (!(socket instanceof Socket)) return
    if (stallTimeout !== Infinity) this.#watch(stallTimeout)
    if (deadPeerProbe > 0) this.#probe(socket, deadPeerProbe)
  }

  /** Writes, and returns whether the peer keeps up. */
  write (text: string): boolean {
    // After a destroy and before its `close` a write would emit an error.
    if (this.#carrier.destroyed) return false
    const keepsUp = this.#raw.write(text)
    if (!keepsUp && this.#stallTimeout !== Infinity) this.#stall ??= setTimeout(() => this.#listener?.stalled(), this.#stallTimeout).unref()
    return keepsUp
  }

  /** Ends the response cleanly; destroys it if the peer has not taken all of it after `grace` milliseconds. */
  end (lastWords: string, grace: number): void {
    if (this.#over || this.#carrier.destroyed) return
    if (lastWords !== '') this.#raw.write(lastWords)
    this.#grace = setTimeout(() => this.destroy(), grace)
    // The grace bounds what is left, and the socket may go on to requests that are no streams, some of which may wait already.
    if (this.#watched !== undefined) this.#watched.setTimeout((this.#watched as ServerSocket).server?.timeout ?? 0)
    // Stops its heartbeat as well, which would write after the end.
    this.#sse?.close()
  }

  /** Breaks the connection off, so that the client sees an error: over HTTP/1.1 the socket, over HTTP/2 the one stream. */
  destroy (): void {
    if (this.#over) return
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
    this.#stopProbing()
    this.#listener?.over()
  }

  #drained (): void {
    clearTimeout(this.#stall)
    this.#stall = undefined
    this.#listener?.drained()
  }

  #watch (stallTimeout: number): void {
    // Over HTTP/2 Node's timeout counts what any stream of the session took, so there it is all or nothing that is taken.
    if (this.#raw.stream !== undefined) this.#stallTimeout = stallTimeout
    // A socket's timeout counts also a part of one write that the peer took: https://nodejs.org/api/net.html#socketsettimeouttimeout-callback
    else {
      this.#watched = this.#raw.req.socket
      this.#raw.setTimeout(stallTimeout, () => { if (this.buffered > 0) this.#listener?.stalled() })
    }
  }

  // TCP keepalive: Node sends ten probes, a second apart. Over HTTP/2 it is the session's socket, and probed as long as that lives.
  #probe (socket: Socket, deadPeerProbe: number): void {
    socket.setKeepAlive(true, deadPeerProbe)
    if (this.#raw.stream === undefined) this.#probed = socket
  }

  // The socket may go on, kept alive for requests that are no streams: as the application's server has it, then.
  #stopProbing (): void {
    if (this.#probed === undefined || this.#probed.destroyed) return
    const { keepAlive = false, keepAliveInitialDelay = 0 } = (this.#probed as ServerSocket).server ?? {}
    this.#probed.setKeepAlive(keepAlive, keepAliveInitialDelay * 1000)
  }
}

// @fastify/sse sets `Connection`, which HTTP/2 does not have (RFC 9113, 8.2.2): Node drops it, and prints a warning.
function refuseConnectionHeader (raw: RawResponse): void {
  const { setHeader } = raw
  raw.setHeader = (name, value) => name.toLowerCase() === 'connection' ? raw : setHeader.call(raw, name, value)
}

// Over HTTP/1.0, which nginx speaks to its upstreams unless told otherwise, the end of the connection is the clean end of
// the response (RFC 9112, 6.3): only a reset breaks it off. TLS and Unix sockets have none.
function breakOff (raw: RawResponse): void {
  // A pipelined response that waits for its turn: since Node 24 it would get the socket then, and keep it for ever.
  if (raw.socket === null) raw.once('socket', (socket: Socket) => socket.destroy())
  if (raw.req.httpVersion === '1.0') {
    try {
      raw.socket?.resetAndDestroy()
    } catch {}
  }
  raw.destroy()
}
