// Takes a response over from Fastify after the onSend hooks have run.
import { EventEmitter } from 'node:events'
import { validateHeaderName, validateHeaderValue, type OutgoingHttpHeaders } from 'node:http'
import type { Writable } from 'node:stream'
import { FST_ERR_OCTA_STAR_ON_SEND } from '../errors.ts'
import type { RawResponse } from './socket.ts'

/**
 * A payload for `reply.send`. Fastify runs the onSend hooks. If our own hook is the last of these, that hook calls `takeOver`. Otherwise
 * Fastify calls `pipe`, as with any payload that is a stream: https://fastify.dev/docs/latest/Reference/Reply/#streams.
 * That is slower: Fastify then watches the payload and the response for the life of the stream.
 */
export class TakeoverPayload extends EventEmitter {
  readonly #raw: RawResponse
  readonly #route: string
  readonly #onTakeover: (headers: OutgoingHttpHeaders) => void

  /** `onTakeover` is called once, with the headers of the reply, and then owns the raw response and the headers. */
  constructor (raw: RawResponse, route: string, onTakeover: (headers: OutgoingHttpHeaders) => void) {
    super()
    this.#raw = raw
    this.#route = route
    this.#onTakeover = onTakeover
  }

  /** Throws, and takes nothing over, if a header is not valid. */
  takeOver (headers: OutgoingHttpHeaders): void {
    for (const name in headers) {
      const value = headers[name]
      if (value === undefined || value === null) delete headers[name]
      // HTTP/2 has other rules, which Node checks when a header is set.
      else if (this.#raw.stream !== undefined) this.#raw.setHeader(name, value)
      else checkHeader(name, value)
    }
    this.#onTakeover(headers)
  }

  pipe<T extends Writable | RawResponse> (destination: T): T {
    // To Fastify the payload has ended: Fastify neither waits for the payload nor reports that the payload was cut off.
    this.emit('end')
    if (destination === this.#raw) this.#onTakeover(this.#raw.getHeaders())
    // An onSend hook pipes the payload through a transform. Fastify answers the transform's error, but listens to the
    // transform only after the hook has returned. Without this listener the error would end the process.
    else (destination as Writable).on('error', () => {}).destroy(new FST_ERR_OCTA_STAR_ON_SEND(this.#route))
    return destination
  }
}

/** @throws as Node does when the head is written */
function checkHeader (name: string, value: number | string | string[]): void {
  validateHeaderName(name)
  if (Array.isArray(value)) for (const item of value) validateHeaderValue(name, item)
  else validateHeaderValue(name, value as string)
}
