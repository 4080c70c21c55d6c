// One stream's life: pending -> open -> closing -> closed.
import { randomUUID } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import type { SSEReplyInterface } from '@fastify/sse'
import type { Connection } from './connection.ts'
import { reportClose, reportOpen } from './diagnostics.ts'
import { isStreamClosed, streamClosed, type StreamClosedError } from './errors.ts'
import { formatEvent, type Serializer } from './event.ts'
import { farewell } from './farewell.ts'
import { within } from './within.ts'
import type { CloseReason, ScopeKey, Stream, StreamKey, StreamMessage } from '../types/index.ts'

export interface StreamContext {
  readonly key: StreamKey
  readonly connection: Connection
  readonly closeGrace: number
  readonly log: FastifyBaseLogger
  /** The route as a warning names it, such as `GET /stream`. */
  readonly route: string
  /** Answers a request that never became a stream and whose client must not come back. */
  readonly refuse: () => void
}

const SENT = Promise.resolve()
const unnoticed = () => {}

export class LiveStream implements Stream {
  readonly id = randomUUID()
  readonly gone: Promise<CloseReason>
  openedAt = 0
  readonly #context: StreamContext
  readonly #createdAt = performance.now()
  #state: 'pending' | 'open' | 'closing' | 'closed' = 'pending'
  #reason: CloseReason | undefined
  #serialize: Serializer = JSON.stringify
  #openedAt = 0
  #closingAt = 0
  #keptAlive = false
  #lastWord = false
  // What has to be over before the stream is closed, and then gone.
  #responseOver = false
  #cleanupsRunning = 0
  #handlerOver = false
  #resolveGone!: (reason: CloseReason) => void
  // Made when somebody asks: most streams never need them all.
  #closed: Deferred<CloseReason> | undefined
  #drain: Deferred<void> | undefined
  #abort: AbortController | undefined
  #error: StreamClosedError | undefined
  #onClose: Array<(reason: CloseReason) => unknown> | undefined
  #onReplaced: Array<() => unknown> | undefined
  #interrupt: ((error: StreamClosedError) => void) | undefined

  constructor (context: StreamContext) {
    this.#context = context
    this.gone = new Promise(resolve => { this.#resolveGone = resolve })
    context.connection.listen(this)
  }

  get scopeKey (): ScopeKey { return this.#context.key.scopeKey }
  get tabId (): string | undefined { return this.#context.key.tabId }
  get name (): string | undefined { return this.#context.key.name }
  get closing (): boolean { return this.#reason !== undefined }

  get signal (): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController()
      if (this.closing) this.#abort.abort(this.#closedError())
    }
    return this.#abort.signal
  }

  get closed (): Promise<CloseReason> {
    if (this.#closed === undefined) {
      this.#closed = deferred()
      this.#settle()
    }
    return this.#closed.promise
  }

  /** Opens when `registered` resolves. Rejects as soon as the stream ends before that, whatever it waits for. */
  start (registered: Promise<unknown>, sse: SSEReplyInterface & { serializer?: Serializer }): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#interrupt = reject
      registered.then(() => {
        if (this.closing) return reject(this.#closedError())
        this.#open(sse)
        resolve()
      }).catch(reject)
    })
  }

  #open (sse: SSEReplyInterface & { serializer?: Serializer }): void {
    const { connection, log, route } = this.#context
    if (sse.serializer !== undefined) this.#serialize = sse.serializer
    connection.open(sse)
    this.#state = 'open'
    this.#interrupt = undefined
    this.openedAt = Date.now()
    this.#openedAt = performance.now()
    reportOpen({ stream: this, waited: this.#openedAt - this.#createdAt }, log, route)
  }

  send (message: string | StreamMessage): Promise<void> {
    if (!this.#writable) return this.#refusedSend()
    let text: string
    try {
      text = formatEvent(message, this.#serialize)
    } catch (error) {
      return Promise.reject(error)
    }
    if (this.#context.connection.write(text)) return SENT
    this.#drain ??= deferred()
    const lastWord = this.#lastWord
    const sent = this.#drain.promise.then(() => { if (this.closing && !(lastWord && this.#writable)) throw this.#closedError() })
    sent.catch(unnoticed)
    return sent
  }

  get #writable (): boolean {
    return this.#state === 'open' || (this.#lastWord && !this.#responseOver)
  }

  // An emitter may fire between the end of the stream and the end of its subscription. That is no fault, so a rejection
  // that nobody awaits must not become an unhandled one, which ends the process.
  #refusedSend (): Promise<never> {
    const refused = Promise.reject(this.#closedError())
    refused.catch(unnoticed)
    return refused
  }

  onClose (callback: (reason: CloseReason) => unknown): void {
    if (this.#reason !== undefined) this.#clean(callback, this.#reason)
    else (this.#onClose ??= []).push(callback)
  }

  onReplaced (callback: () => unknown): void {
    (this.#onReplaced ??= []).push(callback)
  }

  keepAlive (): void {
    this.#keptAlive = true
  }

  close (reason: CloseReason = 'finished'): void {
    if (this.closing) return
    const pending = this.#state === 'pending'
    this.#reason = reason
    this.#state = 'closing'
    this.#closingAt = performance.now()
    this.#abort?.abort(this.#closedError())
    this.#interrupt?.(this.#closedError())
    // The handler may be waiting for a peer that never reads again.
    this.drained()
    for (const callback of this.#onClose ?? []) this.#clean(callback, reason)
    if (pending) this.#endRequest(reason)
    else this.#endResponse(reason)
    this.#settle()
  }

  // No response has begun: nothing to wait for.
  #endRequest (reason: CloseReason): void {
    this.#responseOver = true
    if (reason === 'replaced' || reason === 'evicted') this.#context.refuse()
    // Not a 503: a Datastar client never comes back after one.
    else if (reason === 'shutdown') this.#context.connection.destroy()
  }

  #endResponse (reason: CloseReason): void {
    const { connection, closeGrace } = this.#context
    switch (reason) {
      case 'replaced':
        if (this.#onReplaced !== undefined) this.#speakLastWord(this.#onReplaced)
        else connection.end(farewell(reason), closeGrace)
        break
      case 'evicted': connection.end(farewell(reason), closeGrace); break
      case 'finished': connection.end('', closeGrace); break
      case 'disconnected': break
      default: connection.destroy()
    }
  }

  async #speakLastWord (callbacks: Array<() => unknown>): Promise<void> {
    const { connection, closeGrace, log, route } = this.#context
    this.#lastWord = true
    const spoken = Promise.all(callbacks.map(async callback => callback()))
      .catch(err => log.warn({ err, streamId: this.id, route }, 'an onReplaced callback failed'))
    const inTime = await within(spoken, closeGrace)
    this.#lastWord = false
    // A peer that took nothing in all that time will not take the end either.
    if (!inTime && connection.blocked) connection.destroy()
    else connection.end(farewell('replaced'), closeGrace)
    this.drained()
  }

  async #clean (callback: (reason: CloseReason) => unknown, reason: CloseReason): Promise<void> {
    this.#cleanupsRunning++
    try {
      await callback(reason)
    } catch (err) {
      this.#context.log.warn({ err, streamId: this.id, route: this.#context.route }, 'an onClose callback failed')
    }
    this.#cleanupsRunning--
    this.#settle()
  }

  /** The handler that started this stream has returned. */
  handlerReturned (): void {
    this.#handlerOver = true
    if (!this.#keptAlive || this.#state === 'pending') this.close('finished')
    this.#settle()
  }

  /** The handler that started this stream has thrown. Returns whether that was the normal end of a stream. */
  handlerThrew (error: unknown): boolean {
    this.#handlerOver = true
    const normal = this.closing && isStreamClosed(error)
    this.close(this.#state === 'pending' ? 'finished' : 'failed')
    this.#settle()
    return normal
  }

  /** The connection's word that the response is over, by its own end or by ours. */
  over (): void {
    this.#responseOver = true
    this.close('disconnected')
    this.drained()
    this.#settle()
  }

  /** The connection's word that it can take more: sends go on, or learn that the stream has ended. */
  drained (): void {
    this.#drain?.resolve()
    this.#drain = undefined
  }

  /** The registry's word that it waits no longer. */
  destroy (): void {
    const { connection, log, route, key } = this.#context
    const hangs = [
      ...this.#responseOver ? [] : ['its client has not taken the end of the response'],
      ...this.#handlerOver ? [] : ['its handler has not returned; does it look at stream.signal?'],
      ...this.#cleanupsRunning === 0 ? [] : [`${this.#cleanupsRunning} of its onClose callbacks have not settled`]
    ]
    connection.destroy()
    log.warn(
      { streamId: this.id, scope: key.scope, tabId: key.tabId, route, reason: this.#reason },
      `a stream of ${route} did not end within replaceTimeout and is waited for no longer: ${hangs.join('; ')}`
    )
  }

  #closedError (): StreamClosedError {
    this.#error ??= streamClosed(this.#reason!)
    return this.#error
  }

  #settle (): void {
    if (this.#reason === undefined || !this.#responseOver || this.#cleanupsRunning > 0) return
    this.#closed?.resolve(this.#reason)
    if (!this.#handlerOver || this.#state === 'closed') return
    this.#state = 'closed'
    this.#resolveGone(this.#reason)
    if (this.#openedAt === 0) return
    const { log, route } = this.#context
    const times = { lived: this.#closingAt - this.#openedAt, closing: performance.now() - this.#closingAt }
    reportClose({ stream: this, reason: this.#reason, ...times }, log, route)
  }
}

interface Deferred<T> { promise: Promise<T>, resolve: (value: T) => void }

function deferred<T> (): Deferred<T> {
  let resolve!: (value: T) => void
  const promise = new Promise<T>(_resolve => { resolve = _resolve })
  return { promise, resolve }
}
