// How each close reason ends a response, and the farewell event, which tells a client not to come back.
import { FAREWELL } from '../event.ts'
import type { StreamResponse } from '../http/response.ts'
import type { CloseReason } from '../../types/stream.ts'

// A farewell stops the client for this long, and for twice the client's reconnection time on top. After that, a client that
// stored the farewell's id by itself may start a stream again.
const FAREWELL_MS = 60_000

type FarewellReason = Extract<CloseReason, 'replaced' | 'evicted'>

/**
 * Ends a response whose head was sent. Datastar reconnects after a broken connection and, by default, not after a clean
 * end. An `EventSource` reconnects after both, sends the farewell's id and gets a 204, see {@link farewellReason}.
 */
export function endResponse (reason: CloseReason, response: StreamResponse, closeGrace: number, retry: number): void {
  switch (reason) {
    case 'replaced':
    case 'evicted': return response.finish(farewell(reason, Date.now() + FAREWELL_MS + 2 * retry), closeGrace)
    case 'finished': return response.finish('', closeGrace)
    // Also for 'disconnected': an application may pass on the reason of another stream.
    default: return response.abort()
  }
}

/** Ends a response that the stream has taken over from Fastify, but whose head was not sent. */
export function endUnopened (reason: CloseReason, response: StreamResponse): void {
  switch (reason) {
    case 'replaced':
    case 'evicted': return response.answer(204)
    case 'finished': return response.answer(200, { 'content-type': 'text/event-stream' })
    // Not answered 503, because neither Datastar nor an EventSource reconnects after a 503.
    default: return response.abort()
  }
}

function farewell (reason: FarewellReason, until: number): string {
  return `event: ${FAREWELL}\nid: ${FAREWELL}:${reason}:${until}\ndata: ${reason}\n\n`
}

/** Returns `true` if a `Last-Event-ID` header is the id of a farewell, of whatever age. */
export function isFarewell (lastEventId: string): boolean {
  return lastEventId.startsWith(FAREWELL)
}

/**
 * Returns the reason if a `Last-Event-ID` header is the id of a recent farewell. The request is then answered 204, after
 * which an `EventSource` never reconnects: https://html.spec.whatwg.org/multipage/server-sent-events.html#sse-processing-model
 */
export function farewellReason (lastEventId: string): FarewellReason | undefined {
  if (!isFarewell(lastEventId)) return undefined
  const [, reason, until] = lastEventId.split(':')
  if ((reason === 'replaced' || reason === 'evicted') && Date.now() < Number(until)) return reason
}
