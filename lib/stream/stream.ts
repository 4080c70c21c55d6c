// A stream's life: pending -> open -> ending -> gone. The way out begins at `close`, and its steps follow in order.
import { randomUUID } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import type { SSEReplyInterface } from '@fastify/sse'
import { reportClose, reportOpen } from '../diagnostics.ts'
import { isStreamClosed, streamClosed, type StreamClosedError } from '../errors.ts'
import type { ResponseListener, StreamResponse } from '../http/response.ts'
import type { SocketOptions } from '../http/socket.ts'
import { deferred, within, type Deferred } from '../wait.ts'
import { Cleanups, type Cleanup } from './cleanups.ts'
import { endRequest, endResponse } from './ending.ts'
import type { Serializer } from './event.ts'
import { Sender, type SendingStream } from './sender.ts'
import type { CloseReason, ScopeKey, Stream, StreamKey, StreamMessage } from '../../types/stream.ts'

/** The options with the same names, see `OctaStarStreamsOptions`. */
export interface StreamOptions extends SocketOptions {
  readonly closeGrace: number
  readonly maxBufferedBytes: number
  readonly maxAge: number
}

export interface StreamContext {
  readonly key: StreamKey
  readonly response: StreamResponse
  readonly options: StreamOptions
  readonly log: FastifyBaseLogger
  /** The route's name in log messages, for example `GET /stream`. */
  readonly route: string
}

// @fastify/sse sets `serializer` but does not declare it: https://github.com/fastify/sse/blob/main/index.js
export type SSEContext = SSEReplyInterface & { readonly serializer?: Serializer }

export class LiveStream implements Stream, ResponseListener, SendingStream {
  readonly #context: StreamContext
  readonly #sender: Sender
  readonly #gone = deferred<CloseReason>()
  readonly #createdAt = performance.now()
  #state: 'pending' | 'open' | 'ending' | 'gone' = 'pending'
  #openedAt = 0
  #endingAt = 0
  #expiry: NodeJS.Timeout | undefined
  #reason: CloseReason | undefined
  #isKeptAlive = false
  #isResponseClosed = false
  #isHandlerSettled = false
  // Created on first use: most streams never need all of these.
  #id: string | undefined
  #closed: Deferred<CloseReason> | undefined
  #abort: AbortController | undefined
  #error: StreamClosedError | undefined
  #cleanups: Cleanups | undefined
  #onReplaced: Array<() => unknown> | undefined
  // Dropped when the stream opens.
  #refuse: (() => void) | undefined
  #rejectStart: ((error: StreamClosedError) => void) | undefined

  /** `refuse` answers a request that never became a stream and whose client must not come back. */
  constructor (context: StreamContext, refuse: () => void) {
    this.#context = context
    this.#refuse = refuse
    this.#sender = new Sender(context.response, context.options.maxBufferedBytes, this)
    context.response.listen(this)
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
    this.#checkGone()
    return this.#closed.promise
  }

  get signal (): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController()
      if (this.closing) this.#abort.abort(this.closedError())
    }
    return this.#abort.signal
  }

  /** Opens when `registered` resolves. Rejects as soon as the stream ends before that. */
  start (registered: Promise<unknown>, sse: SSEContext): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#rejectStart = reject
      registered.then(() => {
        if (this.closing) return reject(this.closedError())
        this.#open(sse)
        resolve()
      }).catch(reject)
    })
  }

  #open (sse: SSEContext): void {
    const { response, options, log, route } = this.#context
    response.open(sse, options)
    this.#sender.open(sse.serializer)
    this.#state = 'open'
    this.#refuse = this.#rejectStart = undefined
    this.#openedAt = performance.now()
    if (options.maxAge !== Infinity) this.#expiry = setTimeout(() => this.close('expired'), drawAge(options.maxAge)).unref()
    reportOpen({ stream: this, waited: this.#openedAt - this.#createdAt }, log, route)
  }

  send (message: string | StreamMessage): Promise<void> {
    return this.#sender.send(message)
  }

  onClose (callback: Cleanup): void {
    this.#cleanups ??= this.#createCleanups()
    this.#cleanups.add(callback)
  }

  onReplaced (callback: () => unknown): void {
    (this.#onReplaced ??= []).push(callback)
  }

  keepAlive (): void {
    this.#isKeptAlive = true
  }

  /** The way out, first step: stops the handler and the sends, starts the cleanups, and ends the response. */
  close (reason: CloseReason = 'finished'): void {
    if (this.closing) return
    const wasOpen = this.#state === 'open'
    this.#reason = reason
    this.#state = 'ending'
    this.#endingAt = performance.now()
    clearTimeout(this.#expiry)
    // The handler may wait for the signal, for a client that never reads again, or for `startStream`.
    this.#abort?.abort(this.closedError())
    this.#sender.close()
    this.#rejectStart?.(this.closedError())
    this.#cleanups?.run(reason)
    if (wasOpen) this.#endResponse(reason)
    else {
      this.#isResponseClosed = true
      endRequest(reason, this.#context.response, this.#refuse!)
    }
    this.#checkGone()
  }

  #endResponse (reason: CloseReason): void {
    const { response, options: { closeGrace } } = this.#context
    if (reason === 'replaced' && this.#onReplaced !== undefined) this.#sendLastWords(this.#onReplaced)
    else endResponse(reason, response, closeGrace)
  }

  async #sendLastWords (callbacks: Array<() => unknown>): Promise<void> {
    const { response, options: { closeGrace }, log, route } = this.#context
    this.#sender.acceptLastWords()
    const sent = Promise.all(callbacks.map(async callback => callback()))
      // A last word that the client did not read in time is not a fault.
      .catch(err => { if (!isStreamClosed(err)) log.warn({ err, streamId: this.id, route }, 'an onReplaced callback failed') })
    const inTime = await within(sent, closeGrace)
    this.#sender.close()
    // A client that read nothing during closeGrace will not read the end either.
    if (!inTime && response.blocked) response.abort()
    endResponse('replaced', response, closeGrace)
  }

  /** The way out, second step, in any order: the response has closed, ... */
  responseClosed (): void {
    this.#isResponseClosed = true
    this.close('disconnected')
    this.#sender.close()
    this.#checkGone()
  }

  /** ... the handler has returned, ... */
  handlerReturned (): void {
    this.#isHandlerSettled = true
    if (!this.#isKeptAlive) this.close('finished')
    this.#checkGone()
  }

  /** ... or has thrown. Returns whether `error` is the normal end of an ended stream. The cleanups call `#checkGone` too. */
  handlerThrew (error: unknown): boolean {
    this.#isHandlerSettled = true
    const isNormalEnd = this.closing && isStreamClosed(error)
    this.close(this.#state === 'pending' ? 'finished' : 'failed')
    this.#checkGone()
    return isNormalEnd
  }

  /** The way out, last step: once nothing runs any more, `gone` resolves, and the registry lets the successor start. */
  #checkGone (): void {
    if (this.#reason === undefined || !this.#isResponseClosed || this.#runningCleanups > 0) return
    this.#closed?.resolve(this.#reason)
    if (!this.#isHandlerSettled || this.#state === 'gone') return
    this.#state = 'gone'
    this.#gone.resolve(this.#reason)
    if (this.#openedAt === 0) return
    const { log, route } = this.#context
    const times = { lived: this.#endingAt - this.#openedAt, closing: performance.now() - this.#endingAt }
    reportClose({ stream: this, reason: this.#reason, ...times }, log, route)
  }

  /** The registry calls this if the stream is not gone within `replaceTimeout`. */
  destroy (): void {
    const { response, log, route, key } = this.#context
    const running = [
      ...this.#isHandlerSettled ? [] : ['the handler (does it use stream.signal?)'],
      ...this.#runningCleanups > 0 ? [`onClose callbacks (${this.#runningCleanups})`] : [],
      ...this.#isResponseClosed ? [] : ['the response (the client has not read its end)']
    ]
    response.abort()
    log.warn(
      { streamId: this.id, scope: key.scope, tabId: key.tabId, route, reason: this.#reason },
      `a stream on ${route} did not end within replaceTimeout and is not waited for any longer. Still running: ${running.join(', ')}`
    )
  }

  responseDrained (): void {
    this.#sender.drained()
  }

  clientStalled (): void {
    this.close('stalled')
  }

  /** The error for everything that still waits for this stream. */
  closedError (): StreamClosedError {
    this.#error ??= streamClosed(this.#reason!)
    return this.#error
  }

  #createCleanups (): Cleanups {
    const { log, route } = this.#context
    const cleanups = new Cleanups(err => log.warn({ err, streamId: this.id, route }, 'an onClose callback failed'), () => this.#checkGone())
    if (this.#reason !== undefined) cleanups.run(this.#reason)
    return cleanups
  }

  get #runningCleanups (): number {
    return this.#cleanups?.running ?? 0
  }
}

// Streams that were opened together, for example after a restart, must not reconnect together.
function drawAge (maxAge: number): number {
  return maxAge * (0.9 + Math.random() / 10)
}
