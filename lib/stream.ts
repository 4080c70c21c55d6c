// One stream's life: pending -> open -> closing -> closed.
import { randomUUID } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import type { SSEReplyInterface } from '@fastify/sse'
import type { Connection, ConnectionOptions } from './connection.ts'
import { reportClose, reportOpen } from './diagnostics.ts'
import { endRequest, endResponse } from './ending.ts'
import { isStreamClosed, streamClosed, type StreamClosedError } from './errors.ts'
import type { Serializer } from './event.ts'
import { Sender } from './sender.ts'
import { deferred, within, type Deferred } from './wait.ts'
import type { CloseReason, ScopeKey, Stream, StreamKey, StreamMessage } from '../types/index.ts'

/** The options of the same names. */
export interface StreamOptions extends ConnectionOptions {
  readonly closeGrace: number
  readonly maxBufferedBytes: number
  readonly maxAge: number
}

export interface StreamContext {
  readonly key: StreamKey
  readonly connection: Connection
  readonly options: StreamOptions
  readonly log: FastifyBaseLogger
  /** The route as a warning names it, such as `GET /stream`. */
  readonly route: string
  /** Answers a request that never became a stream and whose client must not come back. */
  readonly refuse: () => void
}

// `serializer` is there, though @fastify/sse does not declare it.
export type SSEContext = SSEReplyInterface & { readonly serializer?: Serializer }

export class LiveStream implements Stream {
  openedAt = 0
  readonly #context: StreamContext
  readonly #sender: Sender
  readonly #gone = deferred<CloseReason>()
  readonly #createdAt = performance.now()
  #openedAt = 0
  #closingAt = 0
  #expiry: NodeJS.Timeout | undefined
  #state: 'pending' | 'open' | 'closing' | 'closed' = 'pending'
  #reason: CloseReason | undefined
  #keptAlive = false
  // What has to be over before the stream is closed.
  #responseOver = false
  #cleanupsRunning = 0
  #handlerOver = false
  // Made when somebody asks: most streams never need them all.
  #id: string | undefined
  #closed: Deferred<CloseReason> | undefined
  #abort: AbortController | undefined
  #error: StreamClosedError | undefined
  #onClose: Array<(reason: CloseReason) => unknown> | undefined
  #onReplaced: Array<() => unknown> | undefined
  #interrupt: ((error: StreamClosedError) => void) | undefined

  constructor (context: StreamContext) {
    this.#context = context
    const stalled = () => this.close('stalled')
    this.#sender = new Sender(context.connection, context.options.maxBufferedBytes, stalled, () => this.#closedError())
    context.connection.listen({ over: () => this.#over(), drained: () => this.#sender.drained(), stalled })
  }

  get id (): string { return this.#id ??= randomUUID() }
  get scopeKey (): ScopeKey { return this.#context.key.scopeKey }
  get tabId (): string | undefined { return this.#context.key.tabId }
  get name (): string | undefined { return this.#context.key.name }
  get gone (): Promise<CloseReason> { return this.#gone.promise }
  get closing (): boolean { return this.#reason !== undefined }

  get closed (): Promise<CloseReason> {
    this.#closed ??= deferred()
    this.#settle()
    return this.#closed.promise
  }

  get signal (): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController()
      if (this.closing) this.#abort.abort(this.#closedError())
    }
    return this.#abort.signal
  }

  /** Opens when `registered` resolves. Rejects as soon as the stream ends before that, whatever it waits for. */
  start (registered: Promise<unknown>, sse: SSEContext): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#interrupt = reject
      registered.then(() => {
        if (this.closing) return reject(this.#closedError())
        this.#open(sse)
        resolve()
      }).catch(reject)
    })
  }

  #open (sse: SSEContext): void {
    const { connection, options, log, route } = this.#context
    connection.open(sse, options)
    this.#sender.open(sse.serializer)
    this.#state = 'open'
    this.#interrupt = undefined
    this.openedAt = Date.now()
    this.#openedAt = performance.now()
    if (options.maxAge !== Infinity) this.#expiry = setTimeout(() => this.close('expired'), drawAge(options.maxAge)).unref()
    reportOpen({ stream: this, waited: this.#openedAt - this.#createdAt }, log, route)
  }

  send (message: string | StreamMessage): Promise<void> {
    return this.#sender.send(message)
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
    const { connection, options: { closeGrace }, refuse } = this.#context
    const opened = this.#state === 'open'
    this.#reason = reason
    this.#state = 'closing'
    this.#closingAt = performance.now()
    clearTimeout(this.#expiry)
    // Stops the handler, wherever it waits: for its signal, for a peer that never reads again, for its start.
    this.#abort?.abort(this.#closedError())
    this.#sender.shut()
    this.#interrupt?.(this.#closedError())

    for (const callback of this.#onClose ?? []) this.#clean(callback, reason)
    if (!opened) {
      this.#responseOver = true
      endRequest(reason, connection, refuse)
    } else if (reason === 'replaced' && this.#onReplaced !== undefined) this.#speakLastWord(this.#onReplaced)
    else endResponse(reason, connection, closeGrace)
    this.#settle()
  }

  async #speakLastWord (callbacks: Array<() => unknown>): Promise<void> {
    const { connection, options: { closeGrace }, log, route } = this.#context
    this.#sender.allowLastWord()
    const spoken = Promise.all(callbacks.map(async callback => callback()))
      .catch(err => log.warn({ err, streamId: this.id, route }, 'an onReplaced callback failed'))
    const inTime = await within(spoken, closeGrace)
    this.#sender.shut()
    // A peer that took nothing in all that time will not take the end either.
    if (!inTime && connection.blocked) connection.destroy()
    endResponse('replaced', connection, closeGrace)
  }

  async #clean (callback: (reason: CloseReason) => unknown, reason: CloseReason): Promise<void> {
    const { log, route } = this.#context
    this.#cleanupsRunning++
    try {
      await callback(reason)
    } catch (err) {
      log.warn({ err, streamId: this.id, route }, 'an onClose callback failed')
    }
    this.#cleanupsRunning--
    this.#settle()
  }

  /** The handler that started this stream has returned. */
  handlerReturned (): void {
    this.#handlerOver = true
    if (!this.#keptAlive) this.close('finished')
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

  // The connection's word that the response is over, by its own end or by ours.
  #over (): void {
    this.#responseOver = true
    this.close('disconnected')
    this.#sender.shut()
    this.#settle()
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
    this.#gone.resolve(this.#reason)
    if (this.#openedAt === 0) return
    const { log, route } = this.#context
    const times = { lived: this.#closingAt - this.#openedAt, closing: performance.now() - this.#closingAt }
    reportClose({ stream: this, reason: this.#reason, ...times }, log, route)
  }
}

// Those that were opened together, as after a restart, do not come back together.
function drawAge (maxAge: number): number {
  return maxAge * (0.9 + Math.random() / 10)
}
