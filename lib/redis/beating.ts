// Renews the records of this process in Redis (BEAT), and so learns what Redis has lost, what was asked of this process, and whether Redis is back (PROBE).
import type { Bucket } from './claims.ts'
import type { RedisClock } from './clock.ts'
import type { RedisConnection } from './connection.ts'
import type { Hearing } from './hearing.ts'
import type { RedisHealth } from './health.ts'
import type { Losses } from './losses.ts'
import { beatCommand, probeCommand, type Sender } from './protocol.ts'

export interface BeatingOptions {
  readonly sender: Sender
  readonly buckets: readonly Bucket[]
  readonly connection: RedisConnection
  readonly health: RedisHealth
  readonly hearing: Hearing
  readonly clock: RedisClock
  readonly losses: Losses
  /** Called when Redis is back for a bucket. */
  readonly onBack: (bucket: Bucket) => void
  /** Called when Redis holds more or fewer requests to end claims than this process knows. */
  readonly onRequests: (bucket: Bucket) => void
}

/** How often the owner calls `beatDue`. All times are in milliseconds. */
export const TICK_MS = 250
/** How often the records are renewed: three times per lease, so that a short halt does no harm. */
const BEAT_MS = 800
/** How often this process asks whether Redis is back. */
const PROBE_MS = 500

export class Beating {
  readonly #options: BeatingOptions
  #isStopped = false

  constructor (options: BeatingOptions) {
    this.#options = options
  }

  /** Renews the records that are due. */
  beatDue (): void {
    const { buckets, hearing } = this.#options
    const now = performance.now()
    const { isDeaf } = hearing
    this.beat(buckets.filter(bucket => {
      const interval = bucket.isAway ? PROBE_MS : isDeaf ? TICK_MS : BEAT_MS
      // A timer may be early by less than a millisecond.
      return bucket.isUsed && now - bucket.beatAt > interval - TICK_MS / 2
    }))
    // The record of an unused bucket is not renewed, and may expire.
    for (const bucket of buckets) if (!bucket.isUsed) bucket.ops = 0
  }

  /** Renews the records of `buckets` now. */
  async beat (buckets: readonly Bucket[]): Promise<void> {
    // A beat without a reply stays in flight, and succeeds as soon as Redis answers.
    const idle = buckets.filter(({ isBeating }) => !isBeating)
    for (const bucket of buckets) bucket.mustBeatAgain = bucket.isBeating
    await Promise.all(this.#options.health.byNode(idle).map((group, i) => this.#beatNode(group, i === 0)))
  }

  stop (): void {
    this.#isStopped = true
  }

  async #beatNode (buckets: Bucket[], isFirst: boolean): Promise<void> {
    const { sender, connection, health, hearing, clock } = this.#options
    const beat = isFirst ? hearing.nextBeat() : undefined
    const { isSubscribed } = connection
    const known = buckets.map(({ ops }) => ops)
    for (const bucket of buckets) {
      bucket.isBeating = true
      bucket.beatAt = performance.now()
    }
    const command = beatCommand(sender, buckets.map(({ number }) => number), hearing.isDeaf, beat)
    await health.run(buckets, command, ({ now, receivers, records }, sentAt) => {
      clock.learn(now, sentAt)
      if (beat !== undefined && isSubscribed) hearing.onBeatSent(beat, receivers)
      if (this.#isStopped) return
      for (const [i, bucket] of buckets.entries()) this.#onBeat(bucket, records[i]!, known[i]!)
      const away = buckets.filter(({ isAway }) => isAway)
      if (away.length > 0) this.#probe(away)
    }, {
      onSettled: () => {
        for (const bucket of buckets) bucket.isBeating = false
        const again = buckets.filter(({ mustBeatAgain }) => mustBeatAgain)
        if (!this.#isStopped && connection.canSend) this.beat(again)
      }
    })
  }

  #onBeat (bucket: Bucket, { ops, requests }: { readonly ops: number, readonly requests: number }, known: number): void {
    this.#options.losses.onRead(bucket, ops, known)
    if (requests !== bucket.requested.size) this.#options.onRequests(bucket)
  }

  /** Redis has taken a beat for `buckets`, which are on the same node. Redis may still refuse further commands, or the keys of a slot in migration. */
  #probe (buckets: Bucket[]): void {
    const { sender, connection, health, hearing, clock, onBack } = this.#options
    const beat = hearing.nextBeat()
    const { isSubscribed } = connection
    health.run(buckets, probeCommand(sender, buckets[0]!.number, beat), ({ now }, sentAt) => {
      clock.learn(now, sentAt)
      if (isSubscribed) hearing.onBeatSent(beat)
      if (this.#isStopped) return
      for (const bucket of buckets) if (bucket.isAway) onBack(bucket)
    })
  }
}
