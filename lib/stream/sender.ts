// Sends the events of a stream: any event while the stream is open, last words while it is replaced, then nothing.
import type { StreamClosedError } from '../errors.ts'
import type { StreamResponse } from '../http/response.ts'
import { deferred, type Deferred } from '../wait.ts'
import { formatEvent, type Serializer } from './event.ts'
import type { StreamMessage } from '../../types/stream.ts'

const SENT = Promise.resolve()

/** The stream for which a sender sends. */
export interface SendingStream {
  /** The error that says why nothing can be sent any more. */
  closedError (): StreamClosedError
  /** More than `maxBufferedBytes` are queued for the client. */
  clientStalled (): void
}

export class Sender {
  readonly #response: StreamResponse
  readonly #maxBufferedBytes: number
  readonly #stream: SendingStream
  #serialize: Serializer = JSON.stringify
  #accepts: 'events' | 'last words' | 'nothing' = 'nothing'
  #drain: Deferred<void> | undefined

  constructor (response: StreamResponse, maxBufferedBytes: number, stream: SendingStream) {
    this.#response = response
    this.#maxBufferedBytes = maxBufferedBytes
    this.#stream = stream
  }

  open (serialize: Serializer | undefined): void {
    this.#accepts = 'events'
    if (serialize !== undefined) this.#serialize = serialize
  }

  acceptLastWords (): void {
    this.#accepts = 'last words'
  }

  /** Rejects every later `send`, and every `send` that is waiting for a client that may never read again. */
  close (): void {
    this.#accepts = 'nothing'
    this.drained()
  }

  send (message: string | StreamMessage): Promise<void> {
    // Checked before the write, because a single large event is not a sign of a slow client.
    if (this.#drain !== undefined && this.#response.buffered > this.#maxBufferedBytes) this.#stream.clientStalled()
    const accepts = this.#accepts
    if (accepts === 'nothing') return ignoreIfNotAwaited(Promise.reject(this.#stream.closedError()))
    let text: string
    try {
      text = formatEvent(message, this.#serialize)
    } catch (error) {
      return Promise.reject(error)
    }
    if (this.#response.write(text)) return SENT
    this.#drain ??= deferred()
    return ignoreIfNotAwaited(this.#drain.promise.then(() => { if (accepts !== this.#accepts) throw this.#stream.closedError() }))
  }

  drained (): void {
    this.#drain?.resolve()
    this.#drain = undefined
  }
}

// An emitter may call `send` between the end of the stream and the end of the subscription. That is not a fault, and an
// unhandled rejection would end the process.
function ignoreIfNotAwaited<T> (sent: Promise<T>): Promise<T> {
  sent.catch(() => {})
  return sent
}
