// Acknowledgements that this process waits for, after another process was asked to end claims. Repeats the request, because messages may be lost.
import type { FastifyBaseLogger } from 'fastify'
import { deferred, within } from '../wait.ts'
import type { RedisConnection } from './connection.ts'

export interface ExpectedAck {
  /** The member that was asked to end claims, and acknowledges. */
  readonly member: string
  /** The number in the acknowledgement. */
  readonly ackNumber: number
  /** How many subscriptions received the request, as PUBLISH returned. */
  readonly receivers: number
  readonly channel: string
  /** The request to repeat on `channel`. */
  readonly message: string
}

const REPEAT_MS = 1_000

export class PendingAcks {
  readonly #connection: RedisConnection
  readonly #timeout: number
  readonly #log: FastifyBaseLogger
  readonly #pending = new Map<string, ExpectedAck & { readonly settle: () => void }>()
  #repeating: NodeJS.Timeout | undefined

  /** Unit of `timeout`: milliseconds. */
  constructor (connection: RedisConnection, timeout: number, log: FastifyBaseLogger) {
    this.#connection = connection
    this.#timeout = timeout
    this.#log = log
  }

  /**
   * Resolves when the acknowledgement arrives, or after the timeout with a warning. Resolves at once if no process received
   * the request, or if this process is not subscribed and could not receive the acknowledgement.
   */
  async wait (expected: ExpectedAck): Promise<void> {
    if (this.#nobodyReceived(expected.receivers) || !this.#connection.isSubscribed) return
    const { promise, resolve } = deferred<void>()
    const id = idOf(expected.member, expected.ackNumber)
    this.#pending.set(id, { ...expected, settle: resolve })
    this.#repeating ??= setInterval(() => this.#repeat(), REPEAT_MS).unref()
    if (!await within(promise, this.#timeout)) {
      this.#log.warn({ member: expected.member }, 'another process did not end a stream within replaceTimeout, so this process no longer waits for it. If that process is alive, its log names the route')
    }
    this.#pending.delete(id)
    if (this.#pending.size > 0) return
    clearInterval(this.#repeating)
    this.#repeating = undefined
  }

  onAck (member: string, ackNumber: number): void {
    this.#pending.get(idOf(member, ackNumber))?.settle()
  }

  /** Ends all waits: the acknowledgements cannot arrive. */
  giveUp (): void {
    for (const { settle } of this.#pending.values()) settle()
  }

  #repeat (): void {
    for (const { channel, message, settle } of this.#pending.values()) {
      if (this.#connection.canSend) this.#connection.publish(channel, message).then(receivers => { if (this.#nobodyReceived(receivers)) settle() }, () => {})
    }
  }

  // A process that has ended has no subscription, and sends no acknowledgement.
  #nobodyReceived (receivers: number): boolean {
    return receivers === 0 && this.#connection.countsReceivers
  }
}

function idOf (member: string, ackNumber: number): string {
  return `${member} ${ackNumber}`
}
