// Whether this process receives messages: the process asks Redis to send a beat, and listens for the beat.
import type { FastifyBaseLogger } from 'fastify'
import type { RedisConnection } from './connection.ts'

/** How long a process may be deaf before the process warns. Unit: milliseconds. */
const WARN_AFTER_MS = 1_000
/** The shortest time between two attempts to move a subscription from one server to another. Unit: milliseconds. */
const MOVE_MS = 5_000

export class Hearing {
  readonly #connection: RedisConnection
  readonly #log: FastifyBaseLogger
  readonly #beatTimeout: number
  #lastBeat = 0
  #lastBeatReceived = 0
  /** When Redis said that the beat was sent that was not received yet. Unit: milliseconds of `performance.now()`. */
  #beatSentAt: number | undefined
  #isOverdue = false
  #movedAt = -Infinity
  #deafSince: number | undefined
  #reason: Error | undefined
  #hasWarned = false

  /** `beatTimeout` is how long a beat may take. Unit: milliseconds. */
  constructor (connection: RedisConnection, beatTimeout: number, log: FastifyBaseLogger) {
    this.#connection = connection
    this.#beatTimeout = beatTimeout
    this.#log = log
  }

  get isDeaf (): boolean {
    return this.#isOverdue || !this.#connection.isSubscribed
  }

  nextBeat (): number {
    return ++this.#lastBeat
  }

  /** Redis has executed the script that sends the beat. The beat may have overtaken this reply. `receivers`: how many subscriptions received the beat. */
  onBeatSent (beat: number, receivers?: number): void {
    if (beat > this.#lastBeatReceived) this.#beatSentAt ??= performance.now()
    if (receivers === 0) this.#move()
  }

  /**
   * Subscribes again, because the subscription is not with the server that takes the commands. After a failover the former master, now a
   * replica, still passes every message on, but the other processes see no receiver and take this process for dead.
   */
  #move (): void {
    const now = performance.now()
    if (!this.#connection.countsReceivers || !this.#connection.isSubscribed || now - this.#movedAt < MOVE_MS) return
    this.#movedAt = now
    this.#connection.resubscribe()
  }

  /** Any message proves that the subscription works. */
  onMessage (beat = 0): void {
    this.#lastBeatReceived = Math.max(this.#lastBeatReceived, beat)
    this.#beatSentAt = undefined
    this.#isOverdue = false
    this.#deafSince = undefined
    if (!this.#hasWarned) return
    this.#hasWarned = false
    this.#log.info('this process receives messages from Redis again')
  }

  onDeaf (reason: Error): void {
    this.#reason = reason
  }

  /** Subscribes anew if a beat is overdue, and warns once. `isAway` says that an outage of Redis explains the silence. */
  check (isAway: boolean): void {
    const now = performance.now()
    if (this.#beatSentAt !== undefined && now - this.#beatSentAt > this.#beatTimeout && this.#connection.isSubscribed) {
      this.#beatSentAt = undefined
      this.#isOverdue = true
      this.#reason = new Error(`a message must arrive within ${this.#beatTimeout} ms, and did not`)
      this.#connection.resubscribe()
    }
    if (!this.isDeaf || isAway) {
      this.#deafSince = undefined
      return
    }
    this.#deafSince ??= now
    if (this.#hasWarned || now - this.#deafSince < WARN_AFTER_MS) return
    this.#hasWarned = true
    this.#log.warn({ err: this.#reason }, 'this process receives no messages from Redis, so it reads the state in Redis at short intervals and subscribes again. Check that the user may use the channels')
  }
}
