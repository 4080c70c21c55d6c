// Takes a response over from Fastify after the onSend hooks have run, by the public way for payloads that are streams.
import { EventEmitter } from 'node:events'
import type { Writable } from 'node:stream'
import { FST_ERR_OCTA_STAR_ON_SEND } from '../errors.ts'
import type { RawResponse } from './socket.ts'

/**
 * A payload for `reply.send`. Fastify runs the onSend hooks, copies the reply's headers to the raw response, and calls
 * `pipe`: https://fastify.dev/docs/latest/Reference/Reply/#streams. `onPipe` is then called, and owns the raw response.
 */
export class TakeoverPayload extends EventEmitter {
  readonly #raw: RawResponse
  readonly #route: string
  readonly #onPipe: () => void

  constructor (raw: RawResponse, route: string, onPipe: () => void) {
    super()
    this.#raw = raw
    this.#route = route
    this.#onPipe = onPipe
  }

  pipe<T extends Writable | RawResponse> (destination: T): T {
    // To Fastify the payload has ended: Fastify neither waits for the payload nor reports that the payload was cut off.
    this.emit('end')
    if (destination === this.#raw) this.#onPipe()
    // An onSend hook pipes the payload through a transform. Fastify answers the transform's error, but listens to the
    // transform only after the hook has returned. Without this listener the error would end the process.
    else (destination as Writable).on('error', () => {}).destroy(new FST_ERR_OCTA_STAR_ON_SEND(this.#route))
    return destination
  }
}
