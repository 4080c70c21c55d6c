// What a stream sends, while it may: anything while it is open, then perhaps a last word, then nothing.
import type { Connection } from './connection.ts'
import type { StreamClosedError } from './errors.ts'
import { formatEvent, type Serializer } from './event.ts'
import { deferred, type Deferred } from './wait.ts'
import type { StreamMessage } from '../types/index.ts'

const SENT = Promise.resolve()

/** What a sender wants of its stream. */
export interface SendingStream {
  /** Why nothing can be sent any more. */
  closedError (): StreamClosedError
  /** Ends it: more than `maxBufferedBytes` wait for the peer. */
  stalled (): void
}

export class Sender {
  readonly #connection: Connection
  readonly #maxBufferedBytes: number
  readonly #stream: SendingStream
  #serialize: Serializer = JSON.stringify
  #may: 'send' | 'speak a last word' | 'not send' = 'not send'
  #drain: Deferred<void> | undefined

  constructor (connection: Connection, maxBufferedBytes: number, stream: SendingStream) {
    this.#connection = connection
    this.#maxBufferedBytes = maxBufferedBytes
    this.#stream = stream
  }

  open (serialize: Serializer | undefined): void {
    this.#may = 'send'
    if (serialize !== undefined) this.#serialize = serialize
  }

  allowLastWord (): void {
    this.#may = 'speak a last word'
  }

  /** Rejects what is sent from now on, and what still waits: its handler may wait for a peer that never reads again. */
  shut (): void {
    this.#may = 'not send'
    this.drained()
  }

  send (message: string | StreamMessage): Promise<void> {
    // Before the write, not after: one large event is no sign of a slow peer.
    if (this.#drain !== undefined && this.#connection.buffered > this.#maxBufferedBytes) this.#stream.stalled()
    const may = this.#may
    if (may === 'not send') return ifAwaited(Promise.reject(this.#stream.closedError()))
    let text: string
    try {
      text = formatEvent(message, this.#serialize)
    } catch (error) {
      return Promise.reject(error)
    }
    if (this.#connection.write(text)) return SENT
    this.#drain ??= deferred()
    return ifAwaited(this.#drain.promise.then(() => { if (may !== this.#may) throw this.#stream.closedError() }))
  }

  drained (): void {
    this.#drain?.resolve()
    this.#drain = undefined
  }
}

// An emitter may fire between the end of a stream and the end of its subscription. That is no fault, so a send that nobody
// awaits must not become an unhandled rejection, which ends the process.
function ifAwaited<T> (sent: Promise<T>): Promise<T> {
  sent.catch(() => {})
  return sent
}
