// The claims of this process that are not gone: found by ClusterClaim, by number and by stream key, and grouped for Redis.
import { BUCKETS, fieldName, locateScope, type Place } from './protocol.ts'
import type { ClusterClaim } from '../../types/index.ts'

/** A claim of this process, and what Redis stores of the claim. */
export interface RedisClaim extends Place {
  readonly clusterClaim: ClusterClaim
  /** The newest claims of the bucket, by Redis key and field. */
  readonly bucket: Map<string, RedisClaim>
  /** Orders the claims on a key. Estimated by the member until CLAIM returns the token. */
  token: number
  /** Whether the claim was sent, so that Redis may store an entry. */
  sent: boolean
  /** True while CLAIM is in flight. Do not RESTATE the claim then: with a provisional token the claim could lose to the predecessor. */
  claiming: boolean
}

/** How many claims one script handles. More would block Redis for longer than some milliseconds. */
const CHUNK = 1_000

export class RedisClaims {
  readonly #prefix: string
  readonly #member: string
  readonly #byNumber = new Map<number, RedisClaim>()
  readonly #numbers = new Map<ClusterClaim, number>()
  // Only the newest claim of each key.
  readonly #buckets = Array.from({ length: BUCKETS }, () => new Map<string, RedisClaim>())

  constructor (prefix: string, member: string) {
    this.#prefix = prefix
    this.#member = member
  }

  /** Adds `clusterClaim` as the newest claim on the key. */
  add (clusterClaim: ClusterClaim, number: number, token: number): RedisClaim {
    const { redisKey, bucket } = locateScope(this.#prefix, clusterClaim.key.scope)
    const field = fieldName(clusterClaim.key, this.#member, number)
    const added: RedisClaim = { clusterClaim, number, redisKey, field, bucket: this.#buckets[bucket]!, token, sent: false, claiming: false }
    this.#byNumber.set(number, added)
    this.#numbers.set(clusterClaim, number)
    added.bucket.set(idOf(added), added)
    return added
  }

  byNumber (number: number): RedisClaim | undefined {
    return this.#byNumber.get(number)
  }

  /** Removes `clusterClaim`. Returns the removed claim if the claim was the newest on the key. */
  delete (clusterClaim: ClusterClaim): RedisClaim | undefined {
    const deleted = this.#byNumber.get(this.#numbers.get(clusterClaim) ?? 0)
    if (deleted === undefined) return undefined
    this.#byNumber.delete(deleted.number)
    this.#numbers.delete(clusterClaim)
    return this.supersede(deleted) ? deleted : undefined
  }

  /** Records that `claim` is not the newest on the key. Returns whether `claim` was the newest until now. */
  supersede (claim: RedisClaim): boolean {
    return this.isNewest(claim) && claim.bucket.delete(idOf(claim))
  }

  isNewest (claim: RedisClaim): boolean {
    return claim.bucket.get(idOf(claim)) === claim
  }

  /** The newest claim of each key, in all buckets or in `bucket`. */
  newest (bucket?: number): RedisClaim[] {
    const buckets = bucket === undefined ? this.#buckets : [this.#buckets[bucket]!]
    return buckets.flatMap(claims => [...claims.values()])
  }

  clear (): void {
    this.#byNumber.clear()
    this.#numbers.clear()
    for (const bucket of this.#buckets) bucket.clear()
  }
}

/** Splits `claims` into batches for the scripts. The claims of a batch share a bucket, and claims of the same scope are adjacent. */
export function inChunks (claims: RedisClaim[]): RedisClaim[][] {
  const sorted = [...claims].sort((a, b) => a.redisKey < b.redisKey ? -1 : a.redisKey > b.redisKey ? 1 : 0)
  const chunks: RedisClaim[][] = []
  for (const claim of sorted) {
    const last = chunks.at(-1)
    if (last !== undefined && last.length < CHUNK && last[0]!.bucket === claim.bucket) last.push(claim)
    else chunks.push([claim])
  }
  return chunks
}

function idOf ({ redisKey, field }: RedisClaim): string {
  return `${redisKey} ${field}`
}
