// While the server closes: refuses requests for streams, and ends the HTTP/2 sessions that carried streams.
import type { IncomingMessage } from 'node:http'
import { constants, type Http2ServerRequest, type ServerHttp2Session } from 'node:http2'
import type { Socket } from 'node:net'
import type { RawResponse } from './socket.ts'

/**
 * Breaks the connection of a request off before the first byte of a response, so that the client reconnects, to another
 * server if need be. Neither an EventSource nor Datastar reconnects after a 503.
 */
export function refuseRequest (request: IncomingMessage | Http2ServerRequest): void {
  if (!('stream' in request)) {
    request.socket.destroy()
    return
  }
  const { stream } = request
  // Fastify replies 503 in this turn. The client must not see that reply.
  Object.assign(stream, { respond () {}, write: () => true, end: () => stream })
  // In a later turn, because Node is reading the request now. A reset frees memory that Node uses when this turn goes on (`SubmitRstStream` in
  // https://github.com/nodejs/node/blob/v20.x/src/node_http2.cc).
  setImmediate(() => {
    // REFUSED_STREAM tells the client that the request was not processed and can be repeated (RFC 9113, section 8.7).
    stream.close(constants.NGHTTP2_REFUSED_STREAM)
    stream.destroy()
  })
}

/** The HTTP/2 sessions that carry or have carried streams, with their sockets. */
export class StreamSessions {
  readonly #sockets = new Map<ServerHttp2Session, Socket>()

  add ({ stream }: RawResponse): void {
    const session = stream?.session as ServerHttp2Session | undefined
    if (session === undefined || session.destroyed || this.#sockets.has(session)) return
    // Node forbids `session.socket.destroy`, and takes `session.socket` away once the session has ended. A method that returns `this`
    // returns the socket itself: https://nodejs.org/api/http2.html#http2sessionsocket
    this.#sockets.set(session, session.socket.setMaxListeners(session.socket.getMaxListeners()) as Socket)
    session.once('close', () => this.#sockets.delete(session))
  }

  /**
   * Ends each session as soon as its last request is answered. Node then waits without a limit until the client ends its half of the
   * connection too, and `fastify.close()` waits for Node. So a client that has not done so after `grace` milliseconds, or twice as many
   * at most, is cut off.
   */
  async close (grace: number): Promise<void> {
    // After a GOAWAY frame Node ignores new requests (RFC 9113, section 6.8), but Node sends the frame only at the end of this turn. If a session
    // is closed earlier, Node itself resets the requests that arrive in between, with the fault that `refuseRequest` avoids.
    for (const session of this.#sockets.keys()) if (!session.destroyed) session.goaway()
    await new Promise(resolve => setImmediate(resolve))
    for (const [session, socket] of this.#sockets) {
      session.close()
      let hasEnded = false
      const timer = setInterval(() => {
        if (hasEnded) socket.destroy()
        hasEnded = session.destroyed
      }, grace).unref()
      socket.once('close', () => clearInterval(timer))
    }
  }
}
