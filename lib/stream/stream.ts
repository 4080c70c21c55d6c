// The life of a stream: pending -> open -> ending -> gone. The way out begins at `close` and is written in the order of events.
import { AsyncResource } from 'node:async_hooks'
import { randomUUID } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import type { FastifyBaseLogger } from 'fastify'
import { reportClose, reportOpen } from '../diagnostics.ts'
import { FST_ERR_OCTA_STAR_CALLBACK, FST_ERR_OCTA_STAR_CYCLE, isAbort, show, streamClosed, type StreamClosedError } from '../errors.ts'
import type { SharedEvent } from '../event.ts'
import type { ResponseListener, SSEContext, StreamResponse } from '../http/response.ts'
import type { SocketOptions } from '../http/socket.ts'
import { kObserver, type HolderObserver } from '../observer.ts'
import { deferred, ignoreIfNotAwaited, within, type Deferred } from '../wait.ts'
import { Cleanups, type Cleanup } from './cleanups.ts'
import { endResponse, endUnopened } from './ending.ts'
import { Sender, type SendingStream } from './sender.ts'
import { sendEach } from './source.ts'
import type { CloseReason, MessageSource, ScopeKey, SendAllOptions, Stream, StreamKey, StreamMessage } from '../../types/stream.ts'

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
  readonly lastEventId: string | undefined
  readonly sse: SSEContext
}

export class LiveStream implements Stream, ResponseListener, SendingStream {
  readonly #context: StreamContext
  readonly #sender: Sender
  // The application's callbacks run in the async context of this stream's own request, whoever ends the stream.
  readonly #request = new AsyncResource('OctaStarStream')
  #state: 'pending' | 'open' | 'ending' | 'gone' = 'pending'
  #openedAt = 0
  /** When the stream was made. From `close` on, when the end began. */
  #since = performance.now()
  #expiry: NodeJS.Timeout | undefined
  #reason: CloseReason | undefined
  #failure: unknown
  #isKeptAlive = false
  // `true` once Fastify has handed the response over to this stream.
  #ownsResponse = false
  #isResponseClosed = false
  #isHandlerSettled = false
  #isGoneAwaited = false
  /** `true` once the handler has received the stream. */
  isReceived = false
  #isInCleanup = false
  // Created on first use: most streams never need all of these.
  #id: string | undefined
  #closed: Deferred<CloseReason> | undefined
  #gone: Deferred<CloseReason> | undefined
  #abort: AbortController | undefined
  #error: StreamClosedError | undefined
  #cleanups: Cleanups | undefined
  #onReplaced: Array<() => unknown> | undefined
  /** The registry's error, if the scope was full. */
  #refusal: Error & { statusCode?: number } | undefined
  // Settle the promise of `start`. Dropped when the stream opens.
  #resolveStart: (() => void) | undefined
  #rejectStart: ((error: unknown) => void) | undefined
  /** Is told about the end of the stream. Set by the registry. */
  [kObserver]: HolderObserver | undefined

  constructor (context: StreamContext) {
    this.#context = context
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
  get lastEventId (): string | undefined { return this.#context.lastEventId }
  get closing (): boolean { return this.#reason !== undefined }

  get gone (): Promise<CloseReason> {
    if (this.#isInCleanup) return refuseCycle('gone')
    this.#isGoneAwaited = true
    this.#gone ??= deferred()
    if (this.#state === 'gone') this.#gone.resolve(this.#reason!)
    return this.#gone.promise
  }

  get closed (): Promise<CloseReason> {
    if (this.#isInCleanup) return refuseCycle('closed')
    this.#closed ??= deferred()
    this.#checkGone()
    return this.#closed.promise
  }

  get signal (): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController()
      // Any number of waits on a signal is normal here: https://nodejs.org/api/events.html#eventssetmaxlistenersn-eventtargets
      setMaxListeners(0, this.#abort.signal)
      if (this.closing) this.#abort.abort(this.closedError())
    }
    return this.#abort.signal
  }

  /** Resolves when the stream opens, and rejects if the stream ends before that. Returns `undefined` if the stream is open already. */
  start (): Promise<void> | undefined {
    if (this.#state === 'open') return undefined
    if (this.closing) return Promise.reject(this.#refusal ?? this.closedError())
    return new Promise<void>((resolve, reject) => {
      this.#resolveStart = resolve
      this.#rejectStart = reject
    })
  }

  /**
   * Called when Fastify's hooks have run: the response now belongs to this stream. If the stream has already ended, ends the
   * response and returns `false`.
   */
  takeOver (): boolean {
    this.#ownsResponse = true
    if (this.#reason === undefined) return true
    endUnopened(this.#reason, this.#context.response)
    return false
  }

  /** Called by the registry when the stream holds the key. Sends the head, and resolves the promise of `start`. */
  open (): void {
    const { response, options, log, route, sse } = this.#context
    response.open(sse, options)
    this.#sender.open(sse.serializer)
    this.#state = 'open'
    this.#openedAt = performance.now()
    if (options.maxAge !== Infinity) this.#expiry = setTimeout(() => this.close('expired'), drawAge(options.maxAge)).unref()
    reportOpen({ stream: this, waited: this.#openedAt - this.#since }, log, route)
    this.#resolveStart?.()
    this.#resolveStart = this.#rejectStart = undefined
  }

  send (message: string | StreamMessage): Promise<void> {
    return this.#sender.send(message)
  }

  push (event: SharedEvent): boolean {
    return this.#sender.push(event)
  }

  sendAll (source: MessageSource, options?: SendAllOptions): Promise<number> {
    return ignoreIfNotAwaited(sendEach(source, options, this.signal, message => this.#sender.send(message)))
  }

  onClose (callback: Cleanup): void {
    if (typeof callback !== 'function') throw new FST_ERR_OCTA_STAR_CALLBACK('onClose', show(callback))
    this.#cleanups ??= this.#createCleanups()
    this.#request.runInAsyncScope(this.#cleanups.add, this.#cleanups, callback)
  }

  onReplaced (callback: () => unknown): void {
    if (typeof callback !== 'function') throw new FST_ERR_OCTA_STAR_CALLBACK('onReplaced', show(callback));
    (this.#onReplaced ??= []).push(callback)
  }

  keepAlive (): void {
    this.#isKeptAlive = true
  }

  /** The way out, first step: stops the handler and the sends, starts the cleanups, and ends the response. */
  close (reason: CloseReason = 'finished'): void {
    if (!this.closing) this.#request.runInAsyncScope(this.#close, this, reason)
  }

  #close (reason: CloseReason): void {
    const wasOpen = this.#state === 'open'
    this.#reason = reason
    this.#state = 'ending'
    this.#since = performance.now()
    clearTimeout(this.#expiry)
    this[kObserver]?.holderEnding()
    // The handler may wait for the signal, for a client that never reads again, or for the start.
    this.#abort?.abort(this.closedError())
    this.#sender.close()
    this.#rejectStart?.(this.closedError())
    this.#cleanups?.run(reason)
    if (wasOpen) this.#endResponse(reason)
    else {
      this.#isResponseClosed = true
      if (this.#ownsResponse) endUnopened(reason, this.#context.response)
    }
    this.#checkGone()
  }

  #endResponse (reason: CloseReason): void {
    if (reason === 'replaced' && this.#onReplaced !== undefined) this.#sendLastWords(this.#onReplaced)
    else endResponse(reason, this.#context.response, this.#context.options.closeGrace, this.#sender.retry)
  }

  async #sendLastWords (callbacks: Array<() => unknown>): Promise<void> {
    const { response, options: { closeGrace }, log, route } = this.#context
    this.#sender.acceptLastWords()
    const sent = Promise.all(callbacks.map(async callback => {
      try {
        await callback()
      } catch (err) {
        // A last word that the client did not read in time is not a fault.
        if (!isAbort(err)) log.warn({ err, streamId: this.id, route }, 'an onReplaced callback failed')
      }
    }))
    const inTime = await within(sent, closeGrace)
    this.#sender.close()
    // A client that read nothing during closeGrace will not read the end either.
    if (!inTime && response.blocked) response.abort()
    endResponse('replaced', response, closeGrace, this.#sender.retry)
  }

  /** The way out, second step, in any order: the response has closed, ... */
  responseClosed (): void {
    this.#isResponseClosed = true
    // If Fastify still owns the response and has sent a head, an onSend hook threw, or answered by itself.
    this.close(!this.#ownsResponse && this.#context.response.headSent ? 'failed' : 'disconnected')
    this.#sender.close()
    this.#checkGone()
  }

  /** ... the handler has returned, ... */
  handlerReturned (): void {
    this.#isHandlerSettled = true
    if (!this.isReceived && !this.closing) {
      const { log, route } = this.#context
      log.warn({ streamId: this.id, route }, `the handler of ${route} neither awaited nor returned startStream, so its stream ended empty`)
    }
    if (!this.#isKeptAlive) this.close('finished')
    this.#checkGone()
  }

  /** ... or has thrown. Returns `false` if Fastify has to reply with the error. The cleanups call `#checkGone` too. */
  handlerThrew (error: unknown): boolean {
    this.#isHandlerSettled = true
    const isNormalEnd = this.closing && (isAbort(error) || this.#isAnsweredRefusal(error))
    const isTakenOver = this.#ownsResponse
    if (!isNormalEnd) this.#failure = error
    if (!isNormalEnd && isTakenOver) {
      const { log, route, key } = this.#context
      const reason = this.#reason ?? 'failed'
      log.error({ err: error, streamId: this.id, scope: key.scope, tabId: key.tabId, route, reason }, `the handler of the stream on ${route} threw an error`)
    }
    this.close('failed')
    this.#checkGone()
    return isNormalEnd || isTakenOver
  }

  /**
   * Called if a framework that runs the handler has answered an error of the handler by itself, so that `handlerThrew` will not
   * be called. During the end of a stream that error most likely says that the stream has ended.
   */
  handlerErrorAnswered (): void {
    if (this.closing) return
    const { log, route, key } = this.#context
    const details = { streamId: this.id, scope: key.scope, tabId: key.tabId, route, reason: 'failed' }
    log.error(details, `the handler of the stream on ${route} threw an error, which the application's framework has handled`)
    this.close('failed')
  }

  /** The way out, last step: once nothing runs any more, `gone` resolves, and the registry lets the successor start. */
  #checkGone (): void {
    if (this.#reason === undefined || !this.#isResponseClosed || this.#runningCleanups > 0) return
    this.#closed?.resolve(this.#reason)
    if (!this.#isHandlerSettled || this.#state === 'gone') return
    this.#state = 'gone'
    this.#gone?.resolve(this.#reason)
    this[kObserver]?.holderGone()
    if (this.#openedAt === 0) return
    const { log, route } = this.#context
    const times = { lived: this.#since - this.#openedAt, closing: performance.now() - this.#since }
    reportClose({ stream: this, reason: this.#reason, error: this.#failure, ...times }, log, route)
  }

  /** Called by the registry if the stream is not gone within `replaceTimeout`, or before the server's close times out. */
  destroy (): void {
    const { response, log, route, key } = this.#context
    const running = [
      ...this.#isHandlerSettled ? [] : [`the handler (${this.#isGoneAwaited ? 'does it await stream.gone, which waits for the handler' : 'does it use stream.signal'}?)`],
      ...this.#runningCleanups > 0 ? [`onClose callbacks (${this.#runningCleanups})`] : [],
      ...this.#isResponseClosed ? [] : ['the response (the client has not read its end)']
    ]
    response.abort()
    log.warn(
      { streamId: this.id, scope: key.scope, tabId: key.tabId, route, reason: this.#reason },
      `a stream on ${route} did not end within replaceTimeout and is not waited for any longer. Still running: ${running.join(', ')}`
    )
    // Whoever awaits these promises in the handler or in a cleanup waits for itself.
    this.#closed?.resolve(this.#reason!)
    this.#gone ??= deferred()
    this.#gone.resolve(this.#reason!)
  }

  responseDrained (): void {
    this.#sender.drained()
  }

  clientStalled (): void {
    this.close('stalled')
  }

  connectionTimedOut (): void {
    this.close(this.#context.response.buffered > 0 ? 'stalled' : 'expired')
  }

  /** Called if the stream has not opened when the time of the handler is up. Breaks the connection off. */
  handlerTimedOut (handlerTimeout: number): void {
    if (this.closing) return
    const { response, log, route, key } = this.#context
    const waitedFor = this.#ownsResponse ? 'its predecessor' : 'onSend hooks'
    log.warn(
      { streamId: this.id, scope: key.scope, tabId: key.tabId, route },
      `a stream on ${route} waited for ${waitedFor} when handlerTimeout, ${handlerTimeout} ms, was over, so the connection was broken off`
    )
    this.close('failed')
    response.abort()
  }

  messageFailed (err: unknown): void {
    const { log, route } = this.#context
    log.warn({ err, streamId: this.id, route }, `a message could not be sent on ${route}`)
  }

  /** Called if the registry refuses the stream because the scope is full. Answers with `error`, and rejects `start`. */
  refuse (error: Error & { statusCode?: number }, headers: Record<string, string>): void {
    // Before the answer: an answer that fails breaks the response off, and would reject `start` with another error.
    this.#refusal = error
    this.#rejectStart?.(error)
    this.#context.response.answer(error.statusCode ?? 500, { 'content-type': 'application/json; charset=utf-8', ...headers }, JSON.stringify(error))
    this.#ownsResponse = false
    this.close('finished')
  }

  /** Whether the client has been told of `error` already. A fault of the server must still be logged. */
  #isAnsweredRefusal (error: unknown): boolean {
    return error === this.#refusal && (this.#refusal?.statusCode ?? 500) < 500
  }

  /** The error for everything that still waits for this stream. */
  closedError (): StreamClosedError {
    this.#error ??= streamClosed(this.#reason!)
    return this.#error
  }

  #createCleanups (): Cleanups {
    const { log, route } = this.#context
    const cleanups = new Cleanups({
      callbackStarting: () => { this.#isInCleanup = true },
      callbackStarted: () => { this.#isInCleanup = false },
      callbackFailed: err => log.warn({ err, streamId: this.id, route }, 'an onClose callback failed'),
      callbackSettled: () => this.#checkGone()
    })
    if (this.#reason !== undefined) cleanups.run(this.#reason)
    return cleanups
  }

  get #runningCleanups (): number {
    return this.#cleanups?.running ?? 0
  }
}

function refuseCycle (property: string): Promise<never> {
  const refused = Promise.reject(new FST_ERR_OCTA_STAR_CYCLE(property))
  refused.catch(() => {})
  return refused
}

// Streams that were opened together, for example after a restart, must not reconnect together. Node keeps a list for each
// distinct duration until the duration has passed, even if the timers were cleared: hence only 64 different durations.
// https://github.com/nodejs/node/blob/v20.x/lib/internal/timers.js
function drawAge (maxAge: number): number {
  return Math.round(maxAge * (0.9 + Math.floor(Math.random() * 64) / 640))
}
