// The socket below a response: lent to a stream, so that a dead or deaf peer is noticed, and taken back as it was.
import { setMaxListeners } from 'node:events'
import { Socket } from 'node:net'
import type { RawResponse } from './connection.ts'

/** The options of the same names. */
export interface SocketOptions {
  readonly stallTimeout: number
  readonly deadPeerProbe: number
}

// What Node keeps of the server in a socket, and does not declare.
type ServerSocket = Socket & { readonly server: { timeout: number, keepAlive: boolean, keepAliveInitialDelay: number } }

/** Calls `stalled` when the peer has taken nothing for `stallTimeout`; over HTTP/2 that is the connection's to find out. */
export function lendSocket (raw: RawResponse, { stallTimeout, deadPeerProbe }: SocketOptions, stalled: () => void): void {
  const { socket } = raw.req
  // What inject() has in its place can do neither.
  if (!(socket instanceof Socket)) return
  // TCP keepalive: Node sends ten probes, a second apart. Over HTTP/2 it is the session's socket, and probed as long as that lives.
  if (deadPeerProbe > 0) socket.setKeepAlive(true, deadPeerProbe)
  if (stallTimeout === Infinity || raw.stream !== undefined) return
  // A part of one write that the peer took counts as well: https://nodejs.org/api/net.html#socketsettimeouttimeout-callback
  raw.setTimeout(stallTimeout, () => { if (raw.writableLength > 0) stalled() })
}

/** For it may go on, kept alive for requests that are no streams, some of which may wait already. */
export function takeBackSocket (raw: RawResponse, { stallTimeout, deadPeerProbe }: SocketOptions): void {
  const { socket } = raw.req
  if (raw.stream !== undefined || !(socket instanceof Socket)) return
  const { timeout, keepAlive, keepAliveInitialDelay } = (socket as ServerSocket).server
  if (deadPeerProbe > 0) socket.setKeepAlive(keepAlive, keepAliveInitialDelay * 1000)
  if (stallTimeout !== Infinity) socket.setTimeout(timeout)
}

/**
 * Has a pipelined response that waits for its turn, and so for its socket, emit `close` when the client leaves. Node does
 * it from its turn on; without this neither a stream nor the heartbeat of @fastify/sse would ever know.
 */
export function closeWithSocket (raw: RawResponse): void {
  const { socket } = raw.req
  const left = () => raw.emit('close')
  // Any number of them may wait on one socket.
  setMaxListeners(0, socket)
  socket.once('close', left)
  raw.once('socket', () => socket.off('close', left))
}

/** Breaks the connection off, so that the client does not take it for the end of the response. */
export function breakOff (raw: RawResponse): void {
  // A pipelined response that waits for its turn: since Node 24 it would get the socket then, and keep it for ever.
  if (raw.socket === null) raw.once('socket', (socket: Socket) => socket.destroy())
  // Node holds back what is written in one turn until the next tick.
  raw.socket?.uncork()
  // Over HTTP/1.0, which nginx speaks to its upstreams unless told otherwise, the end of the connection is the clean end of
  // the response (RFC 9112, 6.3): only a reset breaks it off. TLS and Unix sockets have none.
  if (raw.req.httpVersion === '1.0') {
    try {
      raw.socket?.resetAndDestroy()
    } catch {}
  }
  raw.destroy()
}
