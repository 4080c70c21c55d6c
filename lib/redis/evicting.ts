// Evicts scopes and tabs: asks all processes but this process to end their claims, and waits until the claims are gone.
import { FST_ERR_OCTA_STAR_EVICT } from '../errors.ts'
import { deferred, within } from '../wait.ts'
import type { Bucket, Eviction, RedisClaims } from './claims.ts'
import type { RedisClock } from './clock.ts'
import type { PendingEnds } from './ends.ts'
import type { RedisHealth } from './health.ts'
import type { Losses } from './losses.ts'
import { digestOf, evictCommand, fieldPrefix, type Asked, type Sender, type Timing } from './protocol.ts'

export interface EvictingOptions {
  readonly sender: Sender
  readonly claims: RedisClaims
  readonly health: RedisHealth
  readonly clock: RedisClock
  readonly losses: Losses
  readonly ends: PendingEnds
}

export class Evicting {
  readonly #options: EvictingOptions
  // The functions that end the waits of `#waitUnlessStopped`.
  readonly #waits = new Set<() => void>()
  #isStopped = false

  constructor (options: EvictingOptions) {
    this.#options = options
  }

  /** @throws FST_ERR_OCTA_STAR_EVICT if Redis does not answer, or if a claim is not gone in time */
  async evict (scope: string, tabId?: string): Promise<number> {
    const { claims, health, clock, losses, ends } = this.#options
    const digest = digestOf(scope)
    const bucket = claims.bucket(digest)
    const eviction = { digest, fields: tabId === undefined ? '' : fieldPrefix(tabId), token: 0 }
    if (!health.checkReachable(bucket)) throw new FST_ERR_OCTA_STAR_EVICT('Redis is away')
    bucket.evictions.add(eviction)
    try {
      const asked = await this.#send(bucket, eviction, clock.onTime(), performance.now())
      if (asked === undefined) throw new FST_ERR_OCTA_STAR_EVICT('Redis does not answer')
      // Redis may have lost data that not all processes have restated yet.
      const restatedIn = losses.restatedIn(bucket)
      if (restatedIn > 0) {
        if (!await this.#waitUnlessStopped(restatedIn)) throw new FST_ERR_OCTA_STAR_EVICT('this process leaves the cluster')
        const restated = await this.#sendAgain(bucket, eviction)
        if (restated === undefined) throw new FST_ERR_OCTA_STAR_EVICT('Redis does not answer')
        const known = new Set(asked.map(nameOf))
        asked.push(...restated.filter(claim => !known.has(nameOf(claim))))
      }
      const gone = await ends.wait(bucket, asked)
      if (gone < asked.length) throw new FST_ERR_OCTA_STAR_EVICT(`${asked.length - gone} of ${asked.length} streams in other processes were not gone within replaceTimeout`)
      return gone
    } finally {
      bucket.evictions.delete(eviction)
    }
  }

  /** Redis has lost data of `bucket`: makes the marks of the evictions again that are not finished. */
  onLost (bucket: Bucket): void {
    for (const eviction of bucket.evictions) if (eviction.token > 0) this.#sendAgain(bucket, eviction)
  }

  /** This process leaves: the evictions that wait for the restating of other processes reject. */
  stop (): void {
    this.#isStopped = true
    for (const endWait of this.#waits) endWait()
  }

  /** Resolves to `true` after the wait, or to `false` as soon as this process leaves. */
  async #waitUnlessStopped (milliseconds: number): Promise<boolean> {
    if (this.#isStopped) return false
    const { promise, resolve } = deferred<void>()
    this.#waits.add(resolve)
    const isStopped = await within(promise, milliseconds)
    this.#waits.delete(resolve)
    return !isStopped
  }

  #sendAgain (bucket: Bucket, eviction: Eviction): Promise<Asked[] | undefined> {
    return this.#send(bucket, eviction, { at: eviction.token, tolerance: -1 }, 0)
  }

  /** Asks for the end of all claims that `eviction` concerns. Resolves to these claims, or to `undefined` if Redis does not answer. */
  async #send (bucket: Bucket, eviction: Eviction, timing: Timing, madeAt: number): Promise<Asked[] | undefined> {
    const { sender, health, clock, losses } = this.#options
    const asked = new Map<string, Asked>()
    let cursor = '0'
    do {
      const isAnswered = await health.run([bucket], evictCommand(sender, eviction.digest, eviction.fields, cursor, timing), (reply, sentAt) => {
        clock.learn(reply.now, sentAt)
        if (reply.outcome === 'late') {
          timing = clock.lateTiming(madeAt)
          return
        }
        losses.onCounted(bucket, reply.ops)
        eviction.token = reply.token
        timing = { at: reply.token, tolerance: -1 }
        cursor = reply.cursor
        // A cursor may return a field twice: https://redis.io/docs/latest/commands/scan/#scan-guarantees
        for (const claim of reply.asked) asked.set(nameOf(claim), claim)
      })
      if (!isAnswered) return undefined
    } while (cursor !== '0' || eviction.token === 0)
    return [...asked.values()]
  }
}

function nameOf ({ member, number }: Asked): string {
  return `${member} ${number}`
}
