// The claims of this process that are not gone: found by ClusterClaim, by number and by stream key, and grouped by bucket.
import { BUCKETS, INDEX_BUCKET, bucketOf, digestOf, fieldName, type Mark, type Place, type Released } from './protocol.ts'
import type { ClusterClaim } from '../../types/index.ts'

/** A claim of this process, and what Redis stores of the claim. */
export interface RedisClaim extends Place {
  readonly clusterClaim: ClusterClaim
  readonly bucket: Bucket
  /** Unit: milliseconds of `performance.now()`. */
  readonly madeAt: number
  /** Orders the claims on a key. 0 until CLAIM returns the token, or until the member estimates the token because CLAIM has failed. */
  token: number
  /** Whether this claim, or an older claim of this process on the key, was sent, so that Redis may store an entry. */
  isSent: boolean
  /** True while CLAIM is in flight. Do not RESTATE the claim then: with an estimated token the claim could lose to the predecessor. */
  isClaiming: boolean
  /** The round of restating in which Redis was told of the claim, see `Bucket.round`. 0 if Redis must still be told. */
  round: number
}

/** An eviction by this process that is not finished. */
export interface Eviction {
  readonly digest: string
  /** The beginning of the evicted fields. */
  readonly fields: string
  token: number
}

/** A scope that this process has marked as online. */
export interface OwnMark extends Mark {
  /** Reports the scope as online again. */
  readonly onlineAgain: () => void
}

/** The mark of a scope that this process counts as offline. */
export interface StaleMark {
  readonly scope: string
  /** Whether this process made the mark. Then a mark that is missing was lost, and no other process has reported the scope. */
  readonly isOwn: boolean
}

/** What this process knows of a part of the keys in Redis. In a Redis Cluster each bucket may be on another node. */
export class Bucket {
  readonly number: number
  /** The newest claim of each key. */
  readonly newest = new Map<string, RedisClaim>()
  /** Claims that are asked to end and not gone. */
  readonly ending = new Set<number>()
  /** The requests to end claims that Redis holds, as far as this process knows. */
  readonly requested = new Set<number>()
  /** Claims that are gone, and that Redis must be told of. */
  released: Released[] = []
  readonly evictions = new Set<Eviction>()
  /** The marks of this process, by their digests. */
  readonly marks = new Map<string, OwnMark>()
  /** The scopes that this process counts as offline, and whose marks Redis has not removed yet, by their digests. */
  readonly staleMarks = new Map<string, StaleMark>()
  isAway = false
  /** The node of a Redis Cluster to which the last command went. While the bucket is away, the node that went away. */
  node: string | undefined
  /** True while a BEAT is in flight. */
  isBeating = false
  /** True if another BEAT must follow the BEAT that is in flight. */
  mustBeatAgain = false
  /** When the last BEAT was sent. Unit: milliseconds of `performance.now()`, like all times here. */
  beatAt = -Infinity
  /** The greatest count of operations that Redis has returned. A smaller count shows that Redis has lost data. */
  ops = 0
  /** When this process noticed that Redis has lost data. After an outage, not before the clients of all processes try to connect again. */
  lostAt = -Infinity
  /** Counts the rounds in which all claims are restated, from 1. */
  round = 1
  restatedAt = performance.now()

  constructor (number: number) {
    this.number = number
  }

  /** Whether this process needs a record in the bucket. */
  get isUsed (): boolean {
    return this.number === INDEX_BUCKET || this.isAway || this.newest.size > 0 || this.ending.size > 0 || this.evictions.size > 0 || this.marks.size > 0
  }
}

/** The claims of this process in a scope. */
interface Scope {
  claims: number
  /** The greatest number of a claim so far. */
  newest: number
  /** Whether a claim that is gone was sent, so that Redis may still list this process for the scope. */
  isListed: boolean
}

export class RedisClaims {
  readonly buckets: readonly Bucket[] = Array.from({ length: BUCKETS }, (_, number) => new Bucket(number))
  readonly #member: string
  readonly #byNumber = new Map<number, RedisClaim>()
  readonly #numbers = new Map<ClusterClaim, number>()
  // By digest.
  readonly #scopes = new Map<string, Scope>()

  constructor (member: string) {
    this.#member = member
  }

  /** Adds `clusterClaim` as the newest claim on the key. */
  add (clusterClaim: ClusterClaim, number: number): RedisClaim {
    const digest = digestOf(clusterClaim.key.scope)
    const bucket = this.bucket(digest)
    const field = fieldName(clusterClaim.key, this.#member, number)
    const id = idOf({ digest, field })
    const isSent = bucket.newest.get(id)?.isSent ?? false
    const added: RedisClaim = { clusterClaim, number, digest, field, bucket, madeAt: performance.now(), token: 0, isSent, isClaiming: false, round: 0 }
    this.#byNumber.set(number, added)
    this.#numbers.set(clusterClaim, number)
    bucket.newest.set(id, added)
    const scope = this.#scopes.get(digest)
    if (scope === undefined) this.#scopes.set(digest, { claims: 1, newest: number, isListed: false })
    else {
      scope.claims++
      scope.newest = number
    }
    return added
  }

  bucket (digest: string): Bucket {
    return this.buckets[bucketOf(digest)]!
  }

  byNumber (number: number): RedisClaim | undefined {
    return this.#byNumber.get(number)
  }

  /** Removes `clusterClaim`. Returns what Redis must be told, if anything. */
  delete (clusterClaim: ClusterClaim): Released | undefined {
    const deleted = this.#byNumber.get(this.#numbers.get(clusterClaim) ?? 0)
    if (deleted === undefined) return undefined
    this.#byNumber.delete(deleted.number)
    this.#numbers.delete(clusterClaim)
    const wasNewest = this.supersede(deleted)
    deleted.bucket.requested.delete(deleted.number)
    const wasEnding = deleted.bucket.ending.delete(deleted.number)
    const { digest, field, number, isSent } = deleted
    const scope = this.#scopes.get(digest)!
    scope.isListed ||= isSent
    if (--scope.claims === 0) this.#scopes.delete(digest)
    const isLast = scope.claims === 0 && scope.isListed
    return isLast || (isSent && (wasNewest || wasEnding)) ? { digest, field, number, newest: isLast ? scope.newest : 0 } : undefined
  }

  /** What to tell Redis of a claim at `place` that this process does not have. */
  released (place: Place): Released {
    return { ...place, newest: this.#scopes.has(place.digest) ? 0 : place.number }
  }

  /** Records that `claim` is not the newest on the key. Returns whether `claim` was the newest until now. */
  supersede (claim: RedisClaim): boolean {
    return this.isNewest(claim) && claim.bucket.newest.delete(idOf(claim))
  }

  isNewest (claim: RedisClaim): boolean {
    return claim.bucket.newest.get(idOf(claim)) === claim
  }

  /** Removes all claims. Returns those that Redis must be told of. */
  clear (): Released[] {
    return [...this.#numbers.keys()].map(claim => this.delete(claim)).filter(claim => claim !== undefined)
  }
}

function idOf ({ digest, field }: Pick<Place, 'digest' | 'field'>): string {
  return `${digest} ${field}`
}
