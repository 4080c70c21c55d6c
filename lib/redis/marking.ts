// Which scopes are online in the whole cluster: marks in Redis, and the marks of processes that have ended.
import type { Bucket } from './claims.ts'
import type { RedisHealth } from './health.ts'
import type { Losses } from './losses.ts'
import { bucketOf, digestOf, INDEX_BUCKET, markCommand, PAGE, sweepCommand, unmarkCommand, watchCommand, type Mark, type Sender } from './protocol.ts'
import type { ClusterContext } from '../../types/index.ts'

export interface MarkingOptions extends Pick<ClusterContext, 'offlineDelay' | 'observesScopes' | 'wentOffline'> {
  readonly sender: Sender
  readonly buckets: readonly Bucket[]
  readonly health: RedisHealth
  readonly losses: Losses
}

/** How often a process looks whether a process that marks scopes has ended. Unit: milliseconds. */
const WATCH_MS = 1_000

export class Marking {
  readonly #options: MarkingOptions
  /** The scopes that this process has marked, by their digests. */
  readonly #marks = new Map<string, Mark>()
  /** The processes that have ended, and when this process noticed. Unit: milliseconds of `performance.now()`. */
  readonly #ended = new Map<string, number>()
  #forgotten: string[] = []
  #isWatching = false
  #isStopped = false
  #watchedAt = -Infinity

  constructor (options: MarkingOptions) {
    this.#options = options
  }

  async markOnline (scope: string): Promise<boolean> {
    const { sender, health } = this.#options
    const mark = { digest: digestOf(scope), scope }
    const bucket = this.#bucketOf(mark)
    this.#marks.set(mark.digest, mark)
    // If this process ends before the next tick, the others must know that this process has made marks.
    this.watchDue()
    let isNew = true
    if (health.checkReachable(bucket)) await health.run([bucket], markCommand(sender, bucket.number, [mark]), reply => { isNew = reply[0]! })
    return isNew
  }

  async markOffline (scope: string): Promise<boolean> {
    const { sender, health, losses } = this.#options
    const digest = digestOf(scope)
    const bucket = this.#bucketOf({ digest })
    this.#marks.delete(digest)
    const restatedIn = losses.restatedIn(bucket)
    if (restatedIn > 0) await new Promise<void>(resolve => { setTimeout(resolve, restatedIn).unref() })
    // The mark is left to the other processes.
    if (this.#isStopped) return false
    let isOffline = true
    if (health.checkReachable(bucket)) await health.run([bucket], unmarkCommand(sender, digest), reply => { isOffline = reply })
    return isOffline
  }

  /** This process leaves. */
  stop (): void {
    this.#isStopped = true
  }

  /** Redis may have lost the marks of `bucket`, or was away when the marks were made. */
  restate (bucket: Bucket): void {
    const { sender, health } = this.#options
    const marks = [...this.#marks.values()].filter(mark => this.#bucketOf(mark) === bucket)
    for (let i = 0; i < marks.length; i += PAGE) health.run([bucket], markCommand(sender, bucket.number, marks.slice(i, i + PAGE)), () => {})
  }

  /** Looks for processes that have ended, if that is due, and reports their scopes. */
  async watchDue (): Promise<void> {
    const now = performance.now()
    if (!this.#options.observesScopes() || this.#isWatching || now - this.#watchedAt < WATCH_MS) return
    this.#isWatching = true
    this.#watchedAt = now
    await this.#watch()
    this.#isWatching = false
  }

  async #watch (): Promise<void> {
    const { sender, buckets, health, losses, offlineDelay } = this.#options
    const index = buckets[INDEX_BUCKET]!
    if (!health.checkReachable(index)) return
    const forgotten = this.#forgotten
    const isAnswered = await health.run([index], watchCommand(sender, forgotten), members => {
      for (const member of members) if (!this.#ended.has(member)) this.#ended.set(member, performance.now())
    })
    if (!isAnswered) return
    this.#forgotten = []
    // The users of a process that has ended may come to another process. After a loss, claims may not be restated yet.
    const due = [...this.#ended].filter(([, since]) => performance.now() - since >= offlineDelay).map(([member]) => member)
    if (due.length === 0 || buckets.some(bucket => losses.restatedIn(bucket) > 0)) return
    for (const bucket of buckets) if (!await this.#sweep(bucket)) return
    for (const member of due) this.#ended.delete(member)
    this.#forgotten = due
  }

  /** Resolves to `false` if Redis does not answer. */
  async #sweep (bucket: Bucket): Promise<boolean> {
    const { sender, health, wentOffline } = this.#options
    let cursor = '0'
    do {
      const isAnswered = health.checkReachable(bucket) && await health.run([bucket], sweepCommand(sender, bucket.number, cursor), reply => {
        cursor = reply.cursor
        for (const scope of reply.scopes) wentOffline(scope)
      })
      if (!isAnswered) return false
    } while (cursor !== '0')
    return true
  }

  #bucketOf ({ digest }: Pick<Mark, 'digest'>): Bucket {
    return this.#options.buckets[bucketOf(digest)]!
  }
}
