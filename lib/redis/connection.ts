// The connection to Redis, with the same face for every client library: the application's client sends commands, and a connection of our own receives messages.
import { within } from '../wait.ts'
import type { Script } from './scripts.ts'

/** What a member needs of Redis. */
export interface RedisConnection {
  /** Whether a command sent now has a connection to travel on. */
  readonly canSend: boolean
  /** Whether the member's channel is subscribed to, as far as the client knows. `false` from the moment the subscription's connection broke. */
  readonly isSubscribed: boolean
  /**
   * Whether PUBLISH returns the number of all receivers. In a Redis Cluster PUBLISH counts the receivers of a single node:
   * https://redis.io/docs/latest/commands/publish/
   */
  readonly countsReceivers: boolean
  /** The address of the master that has `slot`, as far as the client knows. `undefined` without a Redis Cluster. */
  nodeOf (slot: number): string | undefined
  /**
   * Runs `script` on the master that holds the first key, and resolves to the script's output: strings, numbers, arrays and
   * `null`, whatever the client's options are. If Redis does not know the script, sends the script whole, behind commands
   * sent in the meantime. If `isWanted` then returns `false`, resolves to `undefined` instead.
   */
  run (script: Script, keys: string[], args: Array<string | number>, isWanted?: () => boolean): Promise<unknown>
  /** Subscribes on a new connection, because the present connection delivers nothing. */
  resubscribe (): void
  close (): void
}

/** What a connection reports, and to which channel the connection subscribes. */
export interface ConnectionListener {
  readonly channel: string
  /** Called with each message on `channel`. */
  onMessage (message: string): void
  /** Called when commands can be sent again, and when `channel` is subscribed to again. Messages may have been lost before. `isReconnected`: commands can be sent again. */
  onReady (isReconnected?: boolean): void
  /**
   * Called when the subscription is lost, and each time SUBSCRIBE fails, with the words of Redis or of the client. The
   * connection goes on trying, so this may be called many times in a row.
   */
  onDeaf (error: Error): void
}

/** What differs between the client libraries, see the files in `clients/`. */
export interface RedisDriver {
  /** See {@link RedisConnection}. */
  readonly canSend: boolean
  readonly countsReceivers: boolean
  nodeOf (slot: number): string | undefined
  /** Runs a script by its text (EVAL) or by its digest (EVALSHA). The output has the same types whatever the client's options are. */
  callScript (command: 'EVAL' | 'EVALSHA', script: string, keys: string[], args: Array<string | number>): Promise<unknown>
  /** Calls `listener` when the application's client may be able to send again. Returns a function that stops the calls. */
  watchReady (listener: () => void): () => void
  /** Opens a new connection and subscribes. Resolves when Redis has confirmed the subscription, and rejects with the reason of the failure. */
  subscribe (request: SubscribeRequest): Promise<void>
  /** Closes what the driver has opened, except subscriptions. Never closes the application's client. */
  close (): void
}

export interface SubscribeRequest {
  readonly channel: string
  /** Aborts when the connection of this subscription is to be closed. */
  readonly signal: AbortSignal
  onMessage (message: string): void
  /** The connection broke. May be called repeatedly, and after the abort. */
  onLost (error: Error): void
}

const FIRST_RETRY_MS = 100
const LAST_RETRY_MS = 5_000
/** How long connecting and subscribing may take. Longer than the connect timeouts of the client libraries (5 and 10 s) would be of no use. */
const SUBSCRIBE_TIMEOUT_MS = 10_000

/**
 * Sends commands, and keeps one channel subscribed. Each subscription has a new connection that never reconnects by itself:
 * after any failure the connection is closed and the next attempt begins from nothing. So the client libraries' rules for
 * reconnecting and resubscribing, which differ and depend on the application's options, do not matter.
 */
export class DrivenConnection implements RedisConnection {
  isSubscribed = false
  readonly #driver: RedisDriver
  readonly #listener: ConnectionListener
  readonly #stopWatching: () => void
  // The present attempt to subscribe, or the present subscription.
  #attempt: AbortController | undefined
  #retry: NodeJS.Timeout | undefined
  #retryDelay = FIRST_RETRY_MS
  #closed = false

  constructor (driver: RedisDriver, listener: ConnectionListener) {
    this.#driver = driver
    this.#listener = listener
    this.#stopWatching = driver.watchReady(() => this.#onClientReady())
    this.#subscribe()
  }

  get canSend (): boolean {
    return this.#driver.canSend
  }

  get countsReceivers (): boolean {
    return this.#driver.countsReceivers
  }

  nodeOf (slot: number): string | undefined {
    return this.#driver.nodeOf(slot)
  }

  async run ({ sha, lua, isSentWhole = false }: Script, keys: string[], args: Array<string | number>, isWanted?: () => boolean): Promise<unknown> {
    if (isSentWhole) return await this.#driver.callScript('EVAL', lua, keys, args)
    try {
      return await this.#driver.callScript('EVALSHA', sha, keys, args)
    } catch (error) {
      // Redis does not know a script before the first EVAL, nor after a restart: https://redis.io/docs/latest/develop/programmability/eval-intro/#script-cache
      if (!(error instanceof Error) || !error.message.startsWith('NOSCRIPT')) throw error
      if (isWanted?.() === false) return undefined
      return await this.#driver.callScript('EVAL', lua, keys, args)
    }
  }

  resubscribe (): void {
    this.#unsubscribe()
    this.#subscribe()
  }

  close (): void {
    this.#closed = true
    this.#stopWatching()
    this.#unsubscribe()
    this.#driver.close()
  }

  async #subscribe (): Promise<void> {
    if (this.#closed) return
    clearTimeout(this.#retry)
    const attempt = this.#attempt = new AbortController()
    const isCurrent = () => this.#attempt === attempt
    // A client that is closed while it connects may never settle.
    const aborted = new Promise<void>((_resolve, reject) => attempt.signal.addEventListener('abort', () => reject(attempt.signal.reason)))
    try {
      const subscribed = this.#driver.subscribe({
        channel: this.#listener.channel,
        signal: attempt.signal,
        onMessage: message => { if (isCurrent()) this.#listener.onMessage(message) },
        onLost: error => this.#onFailure(attempt, error)
      })
      if (!await within(Promise.race([subscribed, aborted]), SUBSCRIBE_TIMEOUT_MS)) throw new Error(`Redis must confirm the subscription to ${this.#listener.channel} within ${SUBSCRIBE_TIMEOUT_MS} ms, and did not`)
    } catch (error) {
      return this.#onFailure(attempt, error as Error)
    }
    if (!isCurrent()) return
    this.isSubscribed = true
    this.#retryDelay = FIRST_RETRY_MS
    this.#listener.onReady()
  }

  #onFailure (attempt: AbortController, error: Error): void {
    if (this.#attempt !== attempt) return
    this.#unsubscribe()
    this.#retry = setTimeout(() => this.#subscribe(), this.#retryDelay).unref()
    this.#retryDelay = Math.min(2 * this.#retryDelay, LAST_RETRY_MS)
    this.#listener.onDeaf(error)
  }

  #unsubscribe (): void {
    const attempt = this.#attempt
    // The abort may call `onLost` at once, which must find no attempt.
    this.#attempt = undefined
    this.isSubscribed = false
    clearTimeout(this.#retry)
    attempt?.abort()
  }

  #onClientReady (): void {
    // The application's client reaches Redis, so an attempt may succeed now.
    if (this.#attempt === undefined) this.#subscribe()
    if (this.canSend) this.#listener.onReady(true)
  }
}
