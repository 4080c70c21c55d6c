// Refuses requests for streams while the server closes.
import type { IncomingMessage } from 'node:http'
import { constants, type Http2ServerRequest } from 'node:http2'

/**
 * Breaks the connection of a request off before the first byte of a response, so that the client reconnects, to another
 * server if need be. Neither an EventSource nor Datastar reconnects after a 503.
 */
export function refuseRequest (request: IncomingMessage | Http2ServerRequest): void {
  if (!('stream' in request)) {
    request.socket.destroy()
    return
  }
  // REFUSED_STREAM tells the client that the request was not processed and can be repeated (RFC 9113, section 8.7).
  request.stream.close(constants.NGHTTP2_REFUSED_STREAM)
  request.stream.destroy()
}
