// The socket below a response: watched for a dead or slow peer while a stream uses it, then restored, or broken off.
import { setMaxListeners } from 'node:events'
import type { ServerResponse } from 'node:http'
import type { ServerHttp2Stream } from 'node:http2'
import { Socket } from 'node:net'

/** Node's response. Over HTTP/2, the compatibility layer's response, which has a `stream`. */
export type RawResponse = ServerResponse & { readonly stream?: ServerHttp2Stream }

/** The options with the same names, see `OctaStarStreamsOptions`. */
export interface SocketOptions {
  readonly stallTimeout: number
  readonly deadPeerProbe: number
}

// Node keeps a socket's server in this undeclared property: https://github.com/nodejs/node/blob/v20.x/lib/net.js
type ServerSocket = Socket & { readonly server: { timeout: number, keepAlive: boolean, keepAliveInitialDelay: number } }

/** Starts to probe for a dead peer. */
export function watchPeer (raw: RawResponse, { deadPeerProbe }: SocketOptions): void {
  const { socket } = raw.req
  // inject() passes an object that is not a Socket and has neither method.
  if (!(socket instanceof Socket)) return
  // Node sends ten probes, a second apart. Over HTTP/2 the probes go on as long as the session's socket lives.
  if (deadPeerProbe > 0) socket.setKeepAlive(true, deadPeerProbe)
}

/**
 * Calls `onTimeout` when nothing has been read or written for `stallTimeout`, and replaces the server's own timeout. A partial
 * write restarts the timeout too: https://nodejs.org/api/net.html#socketsettimeouttimeout-callback. Over HTTP/2 sockets carry many
 * responses, so there the response watches for itself.
 */
export function watchStalls (raw: RawResponse, { stallTimeout }: SocketOptions, onTimeout: (this: RawResponse) => void): void {
  if (stallTimeout === Infinity || raw.stream !== undefined || !(raw.req.socket instanceof Socket)) return
  raw.setTimeout(stallTimeout, onTimeout)
}

/** Whether the server itself would time the socket out in less than `milliseconds`, if there is no traffic. */
export function timesOutWithin ({ req: { socket } }: RawResponse, milliseconds: number): boolean {
  return socket instanceof Socket && socket.timeout !== undefined && socket.timeout > 0 && socket.timeout <= milliseconds
}

/** Restores the server's settings: the socket may be reused for ordinary requests, some of them already pipelined. */
export function restoreSocket (raw: RawResponse, { stallTimeout, deadPeerProbe }: SocketOptions): void {
  const { socket } = raw.req
  if (raw.stream !== undefined || !(socket instanceof Socket)) return
  const { timeout, keepAlive, keepAliveInitialDelay } = (socket as ServerSocket).server
  if (deadPeerProbe > 0) socket.setKeepAlive(keepAlive, keepAliveInitialDelay * 1000)
  if (socket.timeout === stallTimeout) socket.setTimeout(timeout)
}

/**
 * Makes a queued pipelined response emit `close` when the client disconnects. Node emits `close` only for a response that
 * has a socket: https://github.com/nodejs/node/blob/v20.x/lib/_http_server.js (`abortServerResponse` against
 * `resOnFinish`). Without this neither the stream nor the heartbeat of `@fastify/sse` would ever end.
 */
export function closeWithSocket (raw: RawResponse): void {
  const { socket } = raw.req
  const onClose = () => raw.emit('close')
  // Any number of responses may be queued on a socket.
  setMaxListeners(0, socket)
  socket.once('close', onClose)
  raw.once('socket', () => socket.off('close', onClose))
}

// Promises a byte that never comes. To WebKit's `fetch`, chunks that are followed by the end of the connection are a clean end. A
// chunk that is cut off is an error to every client (RFC 9112, section 8), also over TLS and Unix sockets, which cannot be reset.
const HALF_CHUNK = '1\r\n'

/**
 * Breaks the connection off in a way that clients do not mistake for a clean end of the response. `isHeadSent` must be `false`
 * while the head waits for the first byte of the body.
 */
export function breakOff (raw: RawResponse, isHeadSent: boolean): void {
  const { socket } = raw
  if (socket === null) {
    // Since Node 24 a queued pipelined response that was destroyed still gets a socket, and keeps that socket forever.
    raw.once('socket', (socket: Socket) => socket.destroy())
    raw.destroy()
    return
  }
  // Node corks a socket until the next tick, and destroying a corked socket drops what was written in this tick.
  socket.uncork()
  if (raw.req.httpVersion === '1.0') {
    // Over HTTP/1.0 a closed connection is a clean end (RFC 9112, section 6.3), and only a reset is an error. nginx speaks
    // HTTP/1.0 to upstreams by default.
    reset(socket)
    raw.destroy()
    return
  }
  // inject() passes an object that is not a Socket.
  if (socket instanceof Socket && isHeadSent && raw.chunkedEncoding && !raw.writableEnded && socket.writable) socket.write(HALF_CHUNK)
  if (!(socket instanceof Socket) || socket.writableLength === 0) {
    raw.destroy()
    return
  }
  // TLS hands over one write at a time, and has taken all writes of this turn by the end of the turn.
  // `destroyed` keeps everybody from writing behind the half chunk.
  raw.destroyed = true
  setImmediate(() => {
    // The client has not kept up, and what reaches the client may end between two chunks.
    if (socket.writableLength > 0) reset(socket)
    socket.destroy()
  })
}

function reset (socket: Socket): void {
  // resetAndDestroy throws on TLS and on Unix sockets.
  try {
    socket.resetAndDestroy()
  } catch {}
}
