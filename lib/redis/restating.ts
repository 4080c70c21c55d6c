// Restates the claims of this process, so that Redis keeps them, and knows them again after Redis has lost data or was away.
import type { Bucket, RedisClaim } from './claims.ts'
import type { RedisClock } from './clock.ts'
import type { RedisHealth } from './health.ts'
import type { Losses } from './losses.ts'
import { PAGE, restateCommand, type Place, type EndReason, type Sender } from './protocol.ts'

export interface RestatingOptions {
  readonly sender: Sender
  readonly health: RedisHealth
  readonly clock: RedisClock
  readonly losses: Losses
  /** Called with each restated claim that must end. */
  readonly onRequest: (reason: EndReason, place: Place) => void
}

export class Restating {
  readonly #options: RestatingOptions
  // A round begins when the previous round is over, so that neither Redis nor the event loop stalls.
  #rounds: Promise<void> = Promise.resolve()
  #isStopped = false

  constructor (options: RestatingOptions) {
    this.#options = options
  }

  /** Restates the claims in each of the `buckets` whose lease in Redis is half over. */
  restateDue (buckets: readonly Bucket[]): void {
    const now = performance.now()
    for (const bucket of buckets) {
      if (bucket.newest.size > 0 && !bucket.isAway && now - bucket.restatedAt > this.#options.sender.lease / 2) this.restate(bucket)
    }
  }

  /** Restates all claims of `bucket`. */
  restate (bucket: Bucket): void {
    bucket.round++
    bucket.restatedAt = performance.now()
    this.restateRest(bucket)
  }

  /** Restates the claims of `bucket` that Redis was not told of in the present round. */
  restateRest (bucket: Bucket): void {
    const { round } = bucket
    this.#rounds = this.#rounds.then(() => this.#restateRound(bucket, round))
  }

  stop (): void {
    this.#isStopped = true
  }

  async #restateRound (bucket: Bucket, round: number): Promise<void> {
    const { clock } = this.#options
    if (bucket.isAway) return
    // The time of a claim that was never sent is an estimate. After a standstill the last reply may have told an old time, so this
    // round begins with a new reply.
    for (const { token } of bucket.newest.values()) {
      if (token > 0) continue
      await this.#send(bucket, [])
      break
    }
    // Claims may come and go while this loop waits.
    const claims = bucket.newest.values()
    let page: RedisClaim[]
    do {
      if (bucket.round !== round || bucket.isAway || this.#isStopped) return
      page = []
      for (const claim of claims) {
        if (claim.round === round || claim.isClaiming) continue
        claim.isSent = true
        claim.round = round
        // Not earlier: when the claim was made, the estimate of Redis's clock may have been wrong, see RedisClock.lateTiming.
        if (claim.token === 0) claim.token = clock.timeOf(claim.madeAt)
        if (page.push(claim) === PAGE) break
      }
      if (page.length > 0) await this.#send(bucket, page)
    } while (page.length === PAGE)
  }

  async #send (bucket: Bucket, claims: RedisClaim[]): Promise<void> {
    const { sender, health, clock, losses, onRequest } = this.#options
    const isAnswered = await health.run([bucket], restateCommand(sender, bucket.number, claims), ({ now, ops, ended }, sentAt) => {
      clock.learn(now, sentAt)
      losses.onCounted(bucket, ops)
      for (const { index, reason } of ended) onRequest(reason, claims[index]!)
    })
    if (!isAnswered) for (const claim of claims) claim.round = 0
  }
}
