// Sends the events of a stream: any event while the stream is open, last words while it is replaced, then nothing.
import { FST_ERR_OCTA_STAR_NOT_OPEN, type StreamClosedError } from '../errors.ts'
import { formatEvent, type Serializer, type SharedEvent } from '../event.ts'
import type { StreamResponse } from '../http/response.ts'
import { deferred, ignoreIfNotAwaited, type Deferred } from '../wait.ts'
import type { StreamMessage } from '../../types/stream.ts'

const SENT = Promise.resolve()

/** The stream for which a sender sends. */
export interface SendingStream {
  readonly closing: boolean
  /** The error that says why nothing can be sent any more. */
  closedError (): StreamClosedError
  /** A message cannot be sent. */
  messageFailed (error: unknown): void
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
  /** The reconnection time that was last sent to the client. Unit: milliseconds. */
  retry = 0

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

  /**
   * Sends an event that is formatted already, and does not wait for a slow client. Returns `false` if the stream is not open, so
   * that the event was not sent.
   */
  push (event: SharedEvent): boolean {
    if (this.#accepts !== 'events') return false
    if (this.#isStalled) {
      // Not at once: the end of a stream runs callbacks of the application. An event that a callback sends must reach the other
      // streams behind this event.
      queueMicrotask(() => this.#stream.clientStalled())
      return false
    }
    if (!this.#response.write(event.take())) {
      if (this.#response.isDisconnected) return false
      this.#drain ??= deferred()
    }
    if (event.retry !== undefined) this.retry = event.retry
    return true
  }

  send (message: string | StreamMessage): Promise<void> {
    if (this.#isStalled) this.#stream.clientStalled()
    const accepts = this.#accepts
    if (accepts === 'nothing') return ignoreIfNotAwaited(Promise.reject(this.#stream.closing ? this.#stream.closedError() : new FST_ERR_OCTA_STAR_NOT_OPEN()))
    let text: string
    try {
      text = formatEvent(message, this.#serialize)
    } catch (error) {
      this.#stream.messageFailed(error)
      return ignoreIfNotAwaited(Promise.reject(error))
    }
    if (typeof message === 'object' && message.retry !== undefined) this.retry = message.retry
    if (this.#response.write(text)) return SENT
    this.#drain ??= deferred()
    return ignoreIfNotAwaited(this.#drain.promise.then(() => { if (accepts !== this.#accepts) throw this.#stream.closedError() }))
  }

  drained (): void {
    this.#drain?.resolve()
    this.#drain = undefined
  }

  // Read before a write, because a single large event is not a sign of a slow client.
  get #isStalled (): boolean {
    return this.#drain !== undefined && this.#response.buffered > this.#maxBufferedBytes
  }
}
