// Whether Redis answers: runs commands with a time limit, reports an outage once, and probes until Redis answers again.
import type { FastifyBaseLogger } from 'fastify'
import { reportCluster } from '../diagnostics.ts'
import { within } from '../wait.ts'
import { ownTime, type RedisClock } from './clock.ts'
import type { RedisConnection } from './connection.ts'
import type { Command, RestateReply } from './protocol.ts'

export interface RedisHealthOptions {
  /** How long Redis may take to reply before Redis counts as away. Unit: milliseconds. */
  readonly replyTimeout: number
  readonly log: FastifyBaseLogger
  /** Builds a command whose reply proves that the nodes of `keys` answer. */
  readonly probeCommand: (keys: readonly string[]) => Command<RestateReply>
  /** Called when Redis answers again after an outage. */
  readonly onBack: () => void
}

export interface RunOptions {
  /** See {@link RedisConnection.run}. */
  readonly isWanted?: () => boolean
  /** Called when the command has succeeded or failed, even after `replyTimeout`. */
  readonly onSettled?: () => void
}

const PROBE_MS = 500

export class RedisHealth {
  readonly #connection: RedisConnection
  readonly #clock: RedisClock
  readonly #options: RedisHealthOptions
  #away = false
  // A key of the node that did not answer. The remaining nodes of a Redis Cluster may still answer.
  #unansweredKeys: string[] = []
  #probing = false
  #stopped = false
  #probes: NodeJS.Timeout | undefined

  constructor (connection: RedisConnection, clock: RedisClock, options: RedisHealthOptions) {
    this.#connection = connection
    this.#clock = clock
    this.#options = options
  }

  get isAway (): boolean {
    return this.#away
  }

  /** Whether a command sent now can be answered. Reports the outage if the connection is down. */
  checkReachable (): boolean {
    if (!this.#away && !this.#connection.canSend) this.markAway(new Error('the client must be connected to Redis, and is not. Check the address of Redis and the network'))
    return !this.#away
  }

  /**
   * Runs `command` and calls `onReply` with the reply, even if the reply arrives after `replyTimeout`. `sentAt` is for
   * {@link RedisClock.learn}. Resolves to `true` when `onReply` is done, or to `false` if the reply did not arrive in time.
   */
  async run<Reply> (command: Command<Reply>, onReply: (reply: Reply, sentAt: number) => unknown, { isWanted, onSettled }: RunOptions = {}): Promise<boolean> {
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
      this.markAway(error as Error, keys)
      return false
    }
    await used
    return true
  }

  /** Records and reports that Redis does not answer for `keys`, and starts to probe. */
  markAway (err: Error, keys: string[] = []): void {
    if (this.#away) return
    this.#away = true
    if (this.#stopped) return
    this.#unansweredKeys = keys.slice(0, 1)
    this.#probes = setInterval(() => this.probe(), PROBE_MS).unref()
    this.#options.log.warn({ err }, 'Redis is away: streams still start, but until Redis is back a new stream replaces only streams of its own process')
    reportCluster({ state: 'away' })
  }

  /** Asks Redis once whether Redis is back. */
  async probe (): Promise<void> {
    // A probe without a reply stays in flight, and succeeds as soon as Redis answers.
    if (this.#probing || !this.#connection.canSend) return
    this.#probing = true
    const sentAt = ownTime()
    try {
      const { script, keys, args, parse } = this.#options.probeCommand(this.#unansweredKeys)
      this.#clock.learn(parse(await this.#connection.run(script, keys, args)).now, sentAt)
      this.#markBack()
    } catch {
      // The next probe may succeed.
    } finally {
      this.#probing = false
    }
  }

  /** Ends probing and reporting. Commands in flight may still be answered. */
  stop (): void {
    this.#stopped = true
    clearInterval(this.#probes)
  }

  #markBack (): void {
    this.#away = false
    clearInterval(this.#probes)
    this.#options.log.info('Redis is back')
    reportCluster({ state: 'back' })
    this.#options.onBack()
  }
}
