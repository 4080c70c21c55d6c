// A response without a socket, for tests of a stream's life: a peer that reads, one that is frozen, one that leaves.
import { EventEmitter } from 'node:events'
import type { SSEReplyInterface } from '@fastify/sse'
import type { RawResponse } from '../../lib/http/socket.ts'

export class FakeResponse extends EventEmitter {
  /** A frozen peer takes nothing: a write asks to wait, and neither `finish` nor `close` follows an end. */
  frozen = false
  destroyed = false
  ended = false
  headersSent = false
  written = ''
  writableNeedDrain = false
  writableLength = 0
  readonly req = { socket: undefined }

  /** The two faces that `StreamResponse` needs. */
  get raw (): RawResponse { return this as unknown as RawResponse }

  get sse (): SSEReplyInterface {
    return {
      keepAlive () {},
      sendHeaders: () => { this.headersSent = true },
      close: () => this.end()
    } as unknown as SSEReplyInterface
  }

  flushHeaders (): void {}

  write (text: string): boolean {
    if (this.ended || this.destroyed) throw new Error('a write after the end')
    this.written += text
    this.writableNeedDrain = this.frozen
    if (this.frozen) this.writableLength += text.length
    return !this.frozen
  }

  end (): void {
    this.ended = true
    // The end is written as well: the last chunk.
    if (this.frozen) this.writableLength++
    else this.#close()
  }

  destroy (): void {
    this.destroyed = true
    this.#close()
  }

  /** The peer reads on. */
  thaw (): void {
    this.frozen = false
    if (this.writableNeedDrain) {
      this.writableNeedDrain = false
      this.writableLength = 0
      this.emit('drain')
    }
  }

  /** The peer leaves, and the kernel says so. */
  leave (): void {
    this.destroy()
  }

  // Node emits it later than the call that causes it.
  #close (): void {
    process.nextTick(() => this.emit('close'))
  }
}
