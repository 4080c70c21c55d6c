// Whether Redis answers: runs commands with a time limit, and reports each outage of a node once.
import type { FastifyBaseLogger } from 'fastify'
import { DelayQueue } from '../delay-queue.ts'
import { reportCluster } from '../diagnostics.ts'
import { deferred } from '../wait.ts'
import type { Bucket } from './claims.ts'
import { ownTime } from './clock.ts'
import type { RedisConnection } from './connection.ts'
import { SLOTS, type Command } from './protocol.ts'

export interface RedisHealthOptions {
  readonly buckets: readonly Bucket[]
  /** How long Redis may take to reply before Redis counts as away. Unit: milliseconds. */
  readonly replyTimeout: number
  readonly log: FastifyBaseLogger
  /** Called with each bucket that goes away. */
  readonly onAway: (bucket: Bucket) => void
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
  // What to call when a command has not been answered in time.
  readonly #deadlines: DelayQueue<(error: Error) => void>
  #isStopped = false

  constructor (connection: RedisConnection, options: RedisHealthOptions) {
    const { replyTimeout } = options
    this.#connection = connection
    this.#options = options
    this.#deadlines = new DelayQueue(replyTimeout, fail => fail(new Error(`Redis must reply within ${replyTimeout} ms, and did not. Check the load of Redis and the network`)))
  }

  /** Whether Redis does not answer for some bucket. */
  get isAway (): boolean {
    return this.#options.buckets.some(({ isAway }) => isAway)
  }

  /** Whether a command for `bucket` sent now can be answered. Reports the outage if the connection is down. */
  checkReachable (bucket: Bucket): boolean {
    if (!bucket.isAway && !this.#connection.canSend) {
      this.#locate(this.#options.buckets)
      this.markAway(this.#options.buckets, new Error('the client must be connected to Redis, and is not. Check the address of Redis and the network'))
    }
    return !bucket.isAway
  }

  /**
   * Runs `command` and calls `onReply` with the reply, even if the reply arrives after `replyTimeout`. `sentAt` is for
   * {@link RedisClock.learn}. Resolves to `true` when `onReply` is done. Resolves to `false` if the reply did not arrive in
   * time: then `buckets` are away, and the owner makes up for the command when `buckets` are back. But a command that was sent
   * while `buckets` were away begins no outage, and nothing makes up for the command: check {@link checkReachable} before.
   */
  run<Reply> (buckets: readonly Bucket[], { script, keys, args, parse }: Command<Reply>, onReply: (reply: Reply, sentAt: number) => unknown, { isWanted, onSettled }: RunOptions = {}): Promise<boolean> {
    const { promise, resolve } = deferred<boolean>()
    const wasAway = buckets.every(({ isAway }) => isAway)
    this.#locate(buckets)
    const sentAt = ownTime()
    const running = this.#connection.run(script, keys, args, isWanted)
    const fail = (error: Error): void => {
      // While a slot migrates, a client repeats a refused command after a pause. So a command of the outage may fail when a later command has
      // shown that the outage is over. Without a Redis Cluster the same server answers for all buckets.
      if (!wasAway) this.markAway(this.#connection.countsReceivers ? this.#options.buckets : buckets, error)
      resolve(false)
    }
    const deadline = this.#deadlines.add(fail)
    // The same number of steps for each command: replies that arrive together must be used in the order in which Redis has sent them.
    running.then(output => {
      onSettled?.()
      // No output: the command was not wanted any more, and was not run.
      const used = output === undefined ? undefined : onReply(parse(output), sentAt)
      this.#deadlines.delete(deadline)
      resolve(used instanceof Promise ? used.then(() => true) : true)
    }, error => {
      onSettled?.()
      throw error
    }).catch(error => {
      // After the deadline a failure needs no report: the warning about the deadline has reported the outage.
      if (deadline.value === undefined) return
      this.#deadlines.delete(deadline)
      fail(error)
    })
    return promise
  }

  /** Groups `buckets` by what a single command can reach: all buckets, or in a Redis Cluster each bucket alone. */
  byNode (buckets: readonly Bucket[]): Bucket[][] {
    if (buckets.length === 0) return []
    return this.#connection.countsReceivers ? [[...buckets]] : buckets.map(bucket => [bucket])
  }

  /** Records that Redis does not answer for `buckets`, or refuses commands, and reports an outage of each of their nodes. */
  markAway (buckets: readonly Bucket[], err: Error): void {
    for (const bucket of buckets) {
      if (bucket.isAway) continue
      const { node } = bucket
      const isReported = this.#isNodeAway(node)
      bucket.isAway = true
      this.#options.onAway(bucket)
      if (isReported || this.#isStopped) continue
      const effect = node === undefined
        ? 'until Redis is back a new stream replaces only streams of its own process'
        : 'until the node is back a new stream whose scope is on this node replaces only streams of its own process'
      this.#options.log.warn({ err }, `${nameOf(node)} is away: streams still start, but ${effect}`)
      reportCluster({ state: 'away', node })
    }
  }

  /** Records that Redis refuses no command for `bucket`. */
  markBack (bucket: Bucket): void {
    const { node } = bucket
    bucket.isAway = false
    if (this.#isNodeAway(node) || this.#isStopped) return
    this.#options.log.info(`${nameOf(node)} is back`)
    reportCluster({ state: 'back', node })
  }

  /** Whether a bucket is away that was on `node` when the bucket went away. */
  #isNodeAway (node: string | undefined): boolean {
    return this.#options.buckets.some(bucket => bucket.isAway && bucket.node === node)
  }

  #locate (buckets: readonly Bucket[]): void {
    // A client that asks again for the list of nodes may know no node for a moment.
    for (const bucket of buckets) if (!bucket.isAway) bucket.node = this.#connection.nodeOf(SLOTS[bucket.number]!) ?? bucket.node
  }

  /** Ends reporting. Commands in flight may still be answered. */
  stop (): void {
    this.#isStopped = true
  }
}

function nameOf (node: string | undefined): string {
  return node === undefined ? 'Redis' : `Redis node ${node}`
}
