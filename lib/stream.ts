// One stream's life: pending -> open -> closing -> closed.
import { randomUUID } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import type { SSEReplyInterface } from '@fastify/sse'
import { Cleanups, type Cleanup } from './cleanups.ts'
import type { Connection, ConnectionListener } from './connection.ts'
import { reportClose, reportOpen } from './diagnostics.ts'
import { endRequest, endResponse } from './ending.ts'
import { isStreamClosed, streamClosed, type StreamClosedError } from './errors.ts'
import type { Serializer } from './event.ts'
import { Sender } from './sender.ts'
import type { SocketOptions } from './socket.ts'
import { deferred, within, type Deferred } from './wait.ts'
import type { CloseReason, ScopeKey, Stream, StreamKey, StreamMessage } from '../types/index.ts'

/** The options of the same names. */
export interface StreamOptions extends SocketOptions {
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
}

// `serializer` is there, though @fastify/sse does not declare it.
export type SSEContext = SSEReplyInterface & { readonly serializer?: Serializer }

export class LiveStream implements Stream, ConnectionListener {
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
  #handlerOver = false
  // Made when somebody asks: most streams never need them all.
  #id: string | undefined
  #closed: Deferred<CloseReason> | undefined
  #abort: AbortController | undefined
  #error: StreamClosedError | undefined
  #cleanups: Cleanups | undefined
  #onReplaced: Array<() => unknown> | undefined
  // There until it is open.
  #refuse: (() => void) | undefined
  #interrupt: ((error: StreamClosedError) => void) | undefined

  /** `refuse` answers a request that never became a stream and whose client must not come back. */
  constructor (context: StreamContext, refuse: () => void) {
    this.#context = context
    this.#refuse = refuse
    this.#sender = new Sender(context.connection, context.options.maxBufferedBytes, this)
    context.connection.listen(this)
  }

  get id (): string {
    this.#id ??= randomUUID()
    return this.#id
  }

  get openedAt (): number { return this.#openedAt === 0 ? 0 : Math.round(performance.timeOrigin + this.#openedAt) }
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
      if (this.closing) this.#abort.abort(this.closedError())
    }
    return this.#abort.signal
  }

  /** Opens when `registered` resolves. Rejects as soon as the stream ends before that, whatever it waits for. */
  start (registered: Promise<unknown>, sse: SSEContext): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#interrupt = reject
      registered.then(() => {
        if (this.closing) return reject(this.closedError())
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
    this.#refuse = this.#interrupt = undefined
    this.#openedAt = performance.now()
    if (options.maxAge !== Infinity) this.#expiry = setTimeout(() => this.close('expired'), drawAge(options.maxAge)).unref()
    reportOpen({ stream: this, waited: this.#openedAt - this.#createdAt }, log, route)
  }

  send (message: string | StreamMessage): Promise<void> {
    return this.#sender.send(message)
  }

  onClose (callback: Cleanup): void {
    this.#cleanups ??= this.#newCleanups()
    this.#cleanups.add(callback)
  }

  onReplaced (callback: () => unknown): void {
    (this.#onReplaced ??= []).push(callback)
  }

  keepAlive (): void {
    this.#keptAlive = true
  }

  close (reason: CloseReason = 'finished'): void {
    if (this.closing) return
    const { connection, options: { closeGrace } } = this.#context
    const opened = this.#state === 'open'
    this.#reason = reason
    this.#state = 'closing'
    this.#closingAt = performance.now()
    clearTimeout(this.#expiry)
    // Stops the handler, wherever it waits: for its signal, for a peer that never reads again, for its start.
    this.#abort?.abort(this.closedError())
    this.#sender.shut()
    this.#interrupt?.(this.closedError())

    this.#cleanups?.run(reason)
    if (!opened) {
      this.#responseOver = true
      endRequest(reason, connection, this.#refuse!)
    } else if (reason === 'replaced' && this.#onReplaced !== undefined) this.#speakLastWord(this.#onReplaced)
    else endResponse(reason, connection, closeGrace)
    this.#settle()
  }

  #newCleanups (): Cleanups {
    const { log, route } = this.#context
    const cleanups = new Cleanups(err => log.warn({ err, streamId: this.id, route }, 'an onClose callback failed'), () => this.#settle())
    if (this.#reason !== undefined) cleanups.run(this.#reason)
    return cleanups
  }

  async #speakLastWord (callbacks: Array<() => unknown>): Promise<void> {
    const { connection, options: { closeGrace }, log, route } = this.#context
    this.#sender.allowLastWord()
    const spoken = Promise.all(callbacks.map(async callback => callback()))
      // A last word that the peer has not taken in time is no fault.
      .catch(err => { if (!isStreamClosed(err)) log.warn({ err, streamId: this.id, route }, 'an onReplaced callback failed') })
    const inTime = await within(spoken, closeGrace)
    this.#sender.shut()
    // A peer that took nothing in all that time will not take the end either.
    if (!inTime && connection.blocked) connection.destroy()
    endResponse('replaced', connection, closeGrace)
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

  /** The connection's word that the response is over, by its own end or by ours. */
  over (): void {
    this.#responseOver = true
    this.close('disconnected')
    this.#sender.shut()
    this.#settle()
  }

  /** The connection's word that the peer keeps up again. */
  drained (): void {
    this.#sender.drained()
  }

  /** The connection's word, or the sender's, that the peer does not take what it is sent. */
  stalled (): void {
    this.close('stalled')
  }

  /** The registry's word that it waits no longer. */
  destroy (): void {
    const { connection, log, route, key } = this.#context
    const hangs = [
      ...this.#responseOver ? [] : ['its client has not taken the end of the response'],
      ...this.#handlerOver ? [] : ['its handler has not returned; does it look at stream.signal?'],
      ...this.#cleaning ? [`${this.#cleanups!.running} of its onClose callbacks have not settled`] : []
    ]
    connection.destroy()
    log.warn(
      { streamId: this.id, scope: key.scope, tabId: key.tabId, route, reason: this.#reason },
      `a stream of ${route} did not end within replaceTimeout and is waited for no longer: ${hangs.join('; ')}`
    )
  }

  /** What those get who still wait for something of it. */
  closedError (): StreamClosedError {
    this.#error ??= streamClosed(this.#reason!)
    return this.#error
  }

  get #cleaning (): boolean {
    return this.#cleanups !== undefined && this.#cleanups.running > 0
  }

  #settle (): void {
    if (this.#reason === undefined || !this.#responseOver || this.#cleaning) return
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
