// The last event of a stream whose client must not come back, and knowing it again in Last-Event-ID.
import type { CloseReason } from '../types/index.ts'

/** The type of the last event, and the prefix of its id, which no other event may use. */
export const FAREWELL = 'octa-star-closed'

export type FarewellReason = Extract<CloseReason, 'replaced' | 'evicted'>

/** The last event, on the wire. Its id is what a client that reconnects all the same sends as `Last-Event-ID`. */
export function farewell (reason: FarewellReason): string {
  return `event: ${FAREWELL}\nid: ${FAREWELL}:${reason}\ndata: ${reason}\n\n`
}

/**
 * The reason in a `Last-Event-ID` that is a farewell's id, and `undefined` for any other. A request that carries one is
 * answered 204, which stops an `EventSource` for good: https://html.spec.whatwg.org/#sse-processing-model
 */
export function farewellReason (lastEventId: string | string[] | undefined): FarewellReason | undefined {
  if (lastEventId === `${FAREWELL}:replaced`) return 'replaced'
  if (lastEventId === `${FAREWELL}:evicted`) return 'evicted'
}
