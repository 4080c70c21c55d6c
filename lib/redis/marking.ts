// Which scopes are online in the whole cluster: marks in Redis, and the marks of processes that have ended.
import type { Bucket, RedisClaims } from './claims.ts'
import type { RedisHealth } from './health.ts'
import type { Losses } from './losses.ts'
import { digestOf, INDEX_BUCKET, markCommand, PAGE, sweepCommand, unmarkCommand, watchCommand, type Sender } from './protocol.ts'
import type { ClusterContext } from '../../types/index.ts'

export interface MarkingOptions extends Pick<ClusterContext, 'offlineDelay' | 'observesScopes' | 'wentOffline'> {
  readonly sender: Sender
  readonly claims: RedisClaims
  readonly health: RedisHealth
  readonly losses: Losses
}

/** How often a process looks whether a process that marks scopes has ended. Unit: milliseconds. */
const WATCH_MS = 1_000

export class Marking {
  readonly #options: MarkingOptions
  /** The processes that have ended, and when this process noticed. Unit: milliseconds of `performance.now()`. */
  readonly #ended = new Map<string, number>()
  #forgotten: string[] = []
  #isWatching = false
  #isStopped = false
  #watchedAt = -Infinity

  constructor (options: MarkingOptions) {
    this.#options = options
  }

  async markOnline (scope: string, onlineAgain: () => void): Promise<boolean> {
    const { sender, claims, health } = this.#options
    const digest = digestOf(scope)
    const bucket = claims.bucket(digest)
    let isNew = true
    bucket.staleMarks.delete(digest)
    bucket.marks.set(digest, { digest, scope, onlineAgain })
    // If this process ends before the next tick, the others must know that this process has made marks.
    this.watchDue()
    if (health.checkReachable(bucket)) await health.run([bucket], markCommand(sender, bucket.number, [{ digest, scope }]), reply => { isNew = reply[0]! })
    return isNew
  }

  async markOffline (scope: string): Promise<boolean> {
    const digest = digestOf(scope)
    const bucket = this.#options.claims.bucket(digest)
    bucket.staleMarks.set(digest, { scope, isOwn: bucket.marks.has(digest) })
    return await this.#unmark(bucket, digest)
  }

  /** Resolves to whether this process must report the scope as offline. If Redis does not answer, the mark stays stale, and `restate` tries again. */
  async #unmark (bucket: Bucket, digest: string): Promise<boolean> {
    const { sender, health, losses } = this.#options
    // Until then, the marks of other processes may be missing.
    const restatedIn = losses.restatedIn(bucket)
    if (restatedIn > 0) await new Promise<void>(resolve => { setTimeout(resolve, restatedIn).unref() })
    // The user may have come back. A process that leaves leaves the mark to the other processes.
    const stale = bucket.staleMarks.get(digest)
    if (stale === undefined || this.#isStopped || !health.checkReachable(bucket)) return false
    bucket.marks.delete(digest)
    let isOffline = false
    const isAnswered = await health.run([bucket], unmarkCommand(sender, digest), reply => { isOffline = reply === 'removed' || (reply === 'missing' && stale.isOwn) })
    return isAnswered && bucket.staleMarks.delete(digest) && isOffline
  }

  /** This process leaves. */
  stop (): void {
    this.#isStopped = true
  }

  /** Redis may have lost the marks of `bucket`, or was away when marks were made or removed. */
  async restate (bucket: Bucket): Promise<void> {
    const { sender, health, wentOffline } = this.#options
    // The list of the members that mark scopes may be lost too.
    this.#watchedAt = -Infinity
    const marks = [...bucket.marks.values()]
    // A page at a time, so that neither Redis nor the event loop stalls.
    for (let i = 0; i < marks.length && !bucket.isAway; i += PAGE) {
      // A mark of a scope that counts as offline would hide that a process brings the scope online meanwhile.
      const page = marks.slice(i, i + PAGE).filter(({ digest }) => bucket.marks.has(digest) && !bucket.staleMarks.has(digest))
      if (page.length === 0) continue
      await health.run([bucket], markCommand(sender, bucket.number, page), reply => {
        // A mark is missing if Redis has lost the mark, or if another process took this process for dead. That process may have reported the scope as offline.
        for (const [n, { digest, onlineAgain }] of page.entries()) if (reply[n]! && !bucket.staleMarks.has(digest)) onlineAgain()
      })
    }
    for (const [digest, { scope }] of bucket.staleMarks) if (!bucket.isAway && await this.#unmark(bucket, digest)) wentOffline(scope)
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
    const { sender, claims: { buckets }, health, losses, offlineDelay } = this.#options
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
}
