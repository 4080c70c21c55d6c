// A response without a socket, for tests of a stream's life. The peer can read, freeze or disconnect.
import { EventEmitter } from 'node:events'
import type { SSEReplyInterface } from '@fastify/sse'
import { StreamResponse } from '../../lib/http/response.ts'
import type { RawResponse } from '../../lib/http/socket.ts'

export class FakeResponse extends EventEmitter {
  /** A frozen peer reads nothing: `write` returns false, and `end` is followed by neither `finish` nor `close`. */
  frozen = false
  destroyed = false
  ended = false
  headersSent = false
  written = ''
  writableNeedDrain = false
  writableLength = 0
  /** The status of a response without a stream, for example 204. */
  status: number | undefined
  #response: StreamResponse | undefined
  readonly socket = { writable: true, uncork () {} }
  readonly req = { socket: undefined, resume () {} }

  /** The response as `StreamResponse` expects it: `raw` here, `sse` below. */
  get raw (): RawResponse { return this as unknown as RawResponse }

  get sse (): SSEReplyInterface {
    return {
      keepAlive () {},
      sendHeaders: () => { this.headersSent = true },
      close: () => this.end()
    } as unknown as SSEReplyInterface
  }

  /** The response as the package wraps it. */
  get response (): StreamResponse {
    this.#response ??= new StreamResponse(this.raw)
    return this.#response
  }

  get writableEnded (): boolean { return this.ended }

  flushHeaders (): void {}

  removeHeader (): void {}

  writeHead (status: number): this {
    this.status = status
    this.headersSent = true
    return this
  }

  write (text: string): boolean {
    if (this.ended || this.destroyed) throw new Error('a write after the end')
    this.written += text
    this.writableNeedDrain = this.frozen
    if (this.frozen) this.writableLength += text.length
    return !this.frozen
  }

  end (): void {
    this.ended = true
    // Chunked encoding also writes a last chunk, which a frozen peer does not read.
    if (this.frozen) this.writableLength++
    else this.#close()
  }

  destroy (): void {
    this.destroyed = true
    this.#close()
  }

  /** The peer reads again. */
  thaw (): void {
    this.frozen = false
    if (this.writableNeedDrain) {
      this.writableNeedDrain = false
      this.writableLength = 0
      this.emit('drain')
    }
  }

  /** The peer has disconnected, and the kernel has not reported that yet. */
  sever (): void {
    this.socket.writable = false
  }

  /** The peer disconnects, and the kernel notices. */
  leave (): void {
    this.destroy()
  }

  // Node emits `close` in a later tick than the call that closes the response.
  #close (): void {
    process.nextTick(() => this.emit('close'))
  }
}
