// Whether Redis answers: runs commands with a time limit, and reports an outage once.
import type { FastifyBaseLogger } from 'fastify'
import { reportCluster } from '../diagnostics.ts'
import { within } from '../wait.ts'
import type { Bucket } from './claims.ts'
import { ownTime } from './clock.ts'
import type { RedisConnection } from './connection.ts'
import type { Command } from './protocol.ts'

export interface RedisHealthOptions {
  readonly buckets: readonly Bucket[]
  /** How long Redis may take to reply before Redis counts as away. Unit: milliseconds. */
  readonly replyTimeout: number
  readonly log: FastifyBaseLogger
}

export interface RunOptions {
  /** See {@link RedisConnection.run}. */
  readonly isWanted?: () => boolean
  /** Called when the command has succeeded or failed, even after `replyTimeout`. */
  readonly onSettled?: () => void
}

export class RedisHealth {
  readonly #connection: RedisConnection
  readonly #options: RedisHealthOptions
  #isStopped = false

  constructor (connection: RedisConnection, options: RedisHealthOptions) {
    this.#connection = connection
    this.#options = options
  }

  /** Whether Redis does not answer for some bucket. */
  get isAway (): boolean {
    return this.#options.buckets.some(({ isAway }) => isAway)
  }

  /** Whether a command for `bucket` sent now can be answered. Reports the outage if the connection is down. */
  checkReachable (bucket: Bucket): boolean {
    if (!bucket.isAway && !this.#connection.canSend) {
      this.markAway(this.#options.buckets, new Error('the client must be connected to Redis, and is not. Check the address of Redis and the network'))
    }
    return !bucket.isAway
  }

  /**
   * Runs `command` and calls `onReply` with the reply, even if the reply arrives after `replyTimeout`. `sentAt` is for
   * {@link RedisClock.learn}. Resolves to `true` when `onReply` is done. Resolves to `false` if the reply did not arrive in
   * time: then `buckets` are away.
   */
  async run<Reply> (buckets: readonly Bucket[], command: Command<Reply>, onReply: (reply: Reply, sentAt: number) => unknown, { isWanted, onSettled }: RunOptions = {}): Promise<boolean> {
    const { script, keys, args, parse } = command
    let used: unknown
    const sentAt = ownTime()
    const replied = this.#connection.run(script, keys, args, isWanted).finally(onSettled).then(output => {
      // No output: the command was not wanted any more, and was not run.
      if (output !== undefined) used = onReply(parse(output), sentAt)
    })
    try {
      if (!await within(replied, this.#options.replyTimeout)) throw new Error(`Redis must reply within ${this.#options.replyTimeout} ms, and did not. Check the load of Redis and the network`)
    } catch (error) {
      // A later failure needs no report: the warning below has reported the outage.
      replied.catch(() => {})
      // Without a Redis Cluster one server answers for all buckets.
      this.markAway(this.#connection.countsReceivers ? this.#options.buckets : buckets, error as Error)
      return false
    }
    await used
    return true
  }

  /** Records that Redis does not answer for `buckets`, or refuses writes, and reports the outage. */
  markAway (buckets: readonly Bucket[], err: Error): void {
    const wasAway = this.isAway
    for (const bucket of buckets) bucket.isAway = true
    if (wasAway || this.#isStopped) return
    this.#options.log.warn({ err }, 'Redis is away: streams still start, but until Redis is back a new stream replaces only streams of its own process')
    reportCluster({ state: 'away' })
  }

  /** Records that Redis has taken a write for `bucket`. */
  markBack (bucket: Bucket): void {
    bucket.isAway = false
    if (this.isAway || this.#isStopped) return
    this.#options.log.info('Redis is back')
    reportCluster({ state: 'back' })
  }

  /** Ends reporting. Commands in flight may still be answered. */
  stop (): void {
    this.#isStopped = true
  }
}
