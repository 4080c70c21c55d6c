// How a stream ends on the wire, by reason: the table that decides whether its client comes back.
import type { Connection } from './connection.ts'
import { farewell } from './farewell.ts'
import type { CloseReason } from '../types/index.ts'

/**
 * Ends a response whose head was sent. Datastar reconnects after a broken connection and, by default, not after a clean
 * end; an `EventSource` reconnects after both, and sends the farewell's id, for which it is answered 204.
 */
export function endResponse (reason: CloseReason, connection: Connection, closeGrace: number): void {
  switch (reason) {
    case 'replaced':
    case 'evicted': return connection.end(farewell(reason), closeGrace)
    case 'finished': return connection.end('', closeGrace)
    // `disconnected` as well: the application may say so, handing on the reason of another stream.
    default: return connection.destroy()
  }
}

/** Answers, with `refuse`, a request that ends before it became a stream. */
export function endRequest (reason: CloseReason, connection: Connection, refuse: () => void): void {
  if (reason === 'replaced' || reason === 'evicted') refuse()
  // Not a 503: a Datastar client never comes back after one.
  else if (reason === 'shutdown') connection.destroy()
}
