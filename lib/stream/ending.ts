// How each close reason ends a response, and the farewell event, which tells a client not to come back.
import type { StreamResponse } from '../http/response.ts'
import type { CloseReason } from '../../types/stream.ts'

/** The type of the farewell event, and the prefix of its id. No event of the application may use that prefix. */
export const FAREWELL = 'octa-star-closed'

type FarewellReason = Extract<CloseReason, 'replaced' | 'evicted'>

/**
 * Ends a response whose head was sent. Datastar reconnects after a broken connection and, by default, not after a clean
 * end. An `EventSource` reconnects after both, sends the farewell's id and gets a 204, see {@link farewellReason}.
 */
export function endResponse (reason: CloseReason, response: StreamResponse, closeGrace: number): void {
  switch (reason) {
    case 'replaced':
    case 'evicted': return response.finish(farewell(reason), closeGrace)
    case 'finished': return response.finish('', closeGrace)
    // Also for 'disconnected': an application may pass on the reason of another stream.
    default: return response.abort()
  }
}

/** Ends a request whose stream never opened. `refuse` answers the request with 204. */
export function endRequest (reason: CloseReason, response: StreamResponse, refuse: () => void): void {
  if (reason === 'replaced' || reason === 'evicted') refuse()
  // Not answered 503, because neither Datastar nor an EventSource reconnects after a 503.
  else if (reason === 'shutdown') response.abort()
}

function farewell (reason: FarewellReason): string {
  return `event: ${FAREWELL}\nid: ${FAREWELL}:${reason}\ndata: ${reason}\n\n`
}

/**
 * Returns the reason if a `Last-Event-ID` header is the id of a farewell. The request is then answered 204, after which an
 * `EventSource` never reconnects: https://html.spec.whatwg.org/multipage/server-sent-events.html#sse-processing-model
 */
export function farewellReason (lastEventId: string | string[] | undefined): FarewellReason | undefined {
  if (lastEventId === `${FAREWELL}:replaced`) return 'replaced'
  if (lastEventId === `${FAREWELL}:evicted`) return 'evicted'
}
