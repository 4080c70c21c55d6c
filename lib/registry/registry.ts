// Decides who holds which stream key: the newest holder wins, a key has a single holder at a time, and every wait is bounded.
import type { FastifyBaseLogger } from 'fastify'
import { reportFlapping } from '../diagnostics.ts'
import { FST_ERR_OCTA_STAR_LIMIT } from '../errors.ts'
import { untilDeadline } from '../wait.ts'
import { Claim } from './claim.ts'
import { FLAPPING_MS, FLAPPING_TIMES } from './flapping.ts'
import { LocalClaims } from './local-claims.ts'
import { canonical, streamKey } from './stream-key.ts'
import type { Cluster } from '../../types/cluster.ts'
import type { StreamRegistry } from '../../types/index.ts'
import type { Holder, ScopeKey, Stream, StreamKey } from '../../types/stream.ts'

const NO_CLAIMS: readonly Claim[] = []
const RESOLVED = Promise.resolve()

export interface RegistryOptions {
  readonly replaceTimeout: number
  readonly maxStreamsPerScope: number
  readonly onLimit: 'replace-oldest' | 'reject'
}

export class Registry implements StreamRegistry {
  readonly #claims = new LocalClaims<Claim>()
  readonly #cluster: Cluster
  readonly #options: RegistryOptions
  readonly #log: FastifyBaseLogger
  // Claims that took their key and are not released yet. A replaced claim whose cleanup hangs is still in here.
  readonly #held = new Set<Claim>()
  #isClosed = false

  constructor (cluster: Cluster, options: RegistryOptions, log: FastifyBaseLogger) {
    this.#cluster = cluster
    this.#options = options
    this.#log = log
  }

  get size (): number {
    return this.#held.size
  }

  * [Symbol.iterator] (): Iterator<Stream> {
    for (const claim of this.#held) yield claim.holder as Stream
  }

  get (scopeKey: ScopeKey, tabId: string, name?: string): Stream | undefined {
    const claim = this.#claims.get(streamKey(scopeKey, tabId, name, 'streamRegistry.get'))
    return claim !== undefined && this.#held.has(claim) ? claim.holder as Stream : undefined
  }

  // The claim is made before the first await, so the order of the calls is the order of the claims: the newest wins.
  async replaceAndRegister (key: StreamKey, holder: Holder): Promise<boolean> {
    if (this.#isClosed) {
      holder.close('shutdown')
      return false
    }
    const evictees = this.#evicteesFor(key)
    const claim = new Claim(key, holder, this.#log)
    const predecessor = this.#claims.claim(claim)
    const elsewhere = this.#cluster.claim(claim)
    if (predecessor !== undefined || evictees.length > 0 || elsewhere !== undefined) {
      claim.predecessorsReleased = this.#endPredecessors(claim, predecessor, evictees, elsewhere)
    }
    this.#releaseWhenGone(claim)
    if (claim.predecessorsReleased !== undefined) {
      await claim.predecessorsReleased
      claim.predecessorsReleased = undefined
    }
    const holds = claim.hold()
    if (holds) this.#held.add(claim)
    return holds
  }

  /** Ends all claims that `claim` has to wait for, and resolves when they are released or the wait has timed out. */
  async #endPredecessors (claim: Claim, predecessor: Claim | undefined, evictees: readonly Claim[], elsewhere: Promise<unknown> | undefined): Promise<void> {
    if (predecessor !== undefined) {
      predecessor.end('replaced', claim.holder)
      if (claim.countReplacement(predecessor)) this.#reportFlapping(claim.key)
    }
    for (const evictee of evictees) evictee.end('evicted')
    // Nearly always there is only the predecessor.
    const claims = predecessor === undefined ? evictees : evictees === NO_CLAIMS ? [predecessor] : [predecessor, ...evictees]
    // Holders that are gone at once are released in a microtask and need no timer.
    await RESOLVED
    if (elsewhere === undefined && claims.every(({ isReleased }) => isReleased)) return
    await this.#whenReleased(claims, claim.since + this.#options.replaceTimeout, elsewhere)
  }

  // A claim that ends while waiting is released only after its predecessors, because its successor must wait for these as well.
  #releaseWhenGone (claim: Claim): void {
    const release = () => {
      if (claim.predecessorsReleased === undefined) this.#release(claim)
      else claim.predecessorsReleased.then(() => this.#release(claim))
    }
    claim.holder.gone.then(release, release)
  }

  #release (claim: Claim): void {
    claim.release()
    this.#held.delete(claim)
    this.#claims.release(claim)
    this.#cluster.release(claim)
  }

  async evict (scopeKey: ScopeKey, tabId?: string): Promise<number> {
    const scope = canonical(scopeKey, 'streamRegistry.evict')
    const claims = this.#claims.scope(scope).filter(({ key }) => tabId === undefined || key.tabId === tabId)
    for (const claim of claims) claim.end('evicted')
    const [others] = await Promise.all([this.#cluster.evict(scope, tabId), this.#whenReleased(claims, performance.now() + this.#options.replaceTimeout)])
    return claims.length + others
  }

  async count (scopeKey: ScopeKey): Promise<number> {
    const scope = canonical(scopeKey, 'streamRegistry.count')
    const others = await this.#cluster.count(scope)
    return this.#claims.scope(scope).length + others
  }

  /** Refuses new holders, ends all present holders, and waits for them, for at most `timeout` milliseconds. */
  async close (timeout: number): Promise<void> {
    this.#isClosed = true
    const claims = new Set([...this.#claims, ...this.#held])
    for (const claim of claims) claim.end('shutdown')
    await this.#whenReleased([...claims], performance.now() + timeout)
  }

  /** Releases the claims whose holders were not gone when the registry closed. */
  clear (): void {
    for (const claim of this.#held) this.#release(claim)
    for (const claim of this.#claims) this.#release(claim)
  }

  // The claims that a new claim waits for if the scope is full: all that are ending, and as many of the
  // oldest as must be evicted. The predecessor on the same key leaves anyway and is not counted.
  #evicteesFor (key: StreamKey): readonly Claim[] {
    const { maxStreamsPerScope, onLimit } = this.#options
    if (maxStreamsPerScope === Infinity) return NO_CLAIMS
    const others = this.#claims.scope(key.scope).filter(other => other.key.slot !== key.slot)
    if (others.length < maxStreamsPerScope) return NO_CLAIMS
    if (onLimit === 'reject') throw new FST_ERR_OCTA_STAR_LIMIT(maxStreamsPerScope)
    const ending = others.filter(other => other.isEnding)
    const live = others.filter(other => !other.isEnding)
    return [...ending, ...live.slice(0, Math.max(0, live.length - maxStreamsPerScope + 1))]
  }

  // At the deadline the holders that are left are destroyed, and nobody waits for them any longer.
  #whenReleased (claims: readonly Claim[], deadline: number, elsewhere?: Promise<unknown>): Promise<void> {
    const subscribe = claims.length === 1 && elsewhere === undefined
      ? (callback: () => void) => claims[0]!.whenReleased(callback)
      : (callback: () => void) => { Promise.allSettled([elsewhere, ...claims.map(claim => claim.released)]).then(callback) }
    return untilDeadline(subscribe, deadline, () => {
      for (const claim of claims) {
        if (!claim.isReleased) claim.destroy()
      }
    })
  }

  #reportFlapping (key: StreamKey): void {
    reportFlapping({ key })
    const { scope, tabId, name } = key
    this.#log.warn(
      { scope, tabId, name },
      `a stream key was replaced more than ${FLAPPING_TIMES} times in ${FLAPPING_MS / 1000} s. Most likely two tabs use the same tab id`
    )
  }
}
