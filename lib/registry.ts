// Who holds which key: newest wins, one at a time, and nobody waits for ever.
import type { FastifyBaseLogger } from 'fastify'
import type { Backend } from './backend.ts'
import { FLAPPING_MS, FLAPPING_TIMES, RegisteredClaim } from './claim.ts'
import { reportFlapping } from './diagnostics.ts'
import { FST_ERR_OCTA_STAR_LIMIT } from './errors.ts'
import { canonical, streamKey } from './stream-key.ts'
import { settled } from './wait.ts'
import type { Cluster, Holder, ScopeKey, Stream, StreamKey, StreamRegistry } from '../types/index.ts'

const NOBODY: readonly RegisteredClaim[] = []
const NOW = Promise.resolve()

export interface RegistryOptions {
  readonly replaceTimeout: number
  readonly maxStreamsPerScope: number
  readonly onLimit: 'replace-oldest' | 'reject'
}

export class Registry implements StreamRegistry {
  readonly #backend: Backend<RegisteredClaim>
  readonly #cluster: Cluster
  readonly #options: RegistryOptions
  readonly #log: FastifyBaseLogger
  // Those that hold, or once held, their key, until they are gone: also a replaced one whose cleanup hangs.
  readonly #held = new Set<RegisteredClaim>()
  #closed = false

  constructor (backend: Backend<RegisteredClaim>, cluster: Cluster, options: RegistryOptions, log: FastifyBaseLogger) {
    this.#backend = backend
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
    const claim = this.#backend.get(streamKey(scopeKey, tabId, name, 'streamRegistry.get'))
    return claim?.holds ? claim.holder as Stream : undefined
  }

  // The claim is made before the first await: the order of the calls is the order of the claims, so newest wins.
  async replaceAndRegister (key: StreamKey, holder: Holder): Promise<boolean> {
    if (this.#closed) {
      holder.close('shutdown')
      return false
    }
    const crowd = this.#crowd(key)
    const claim = new RegisteredClaim(key, holder, this.#log)
    const previous = this.#backend.claim(claim)
    const elsewhere = this.#cluster.claim(claim)
    this.#noteWhenGone(claim)
    if (previous !== undefined || crowd.length > 0 || elsewhere !== undefined) {
      // Before anybody is told to end, which may set off a claim on the same key.
      claim.waits = true
      if (previous !== undefined) this.#replace(previous, claim)
      for (const other of crowd) other.end('evicted')
      // Nearly always it is one.
      const claims = previous === undefined ? crowd : crowd === NOBODY ? [previous] : [previous, ...crowd]
      // Who is gone at once has said so by now, and needs no timer.
      await NOW
      if (elsewhere !== undefined || claims.some(({ isGone }) => !isGone)) await this.#waitFor(claims, claim.since + this.#options.replaceTimeout, elsewhere)
      claim.waits = false
    }
    const holds = !claim.ending
    if (holds) this.#hold(claim)
    if (claim.holderIsGone) this.#forget(claim)
    return holds
  }

  async evict (scopeKey: ScopeKey, tabId?: string): Promise<number> {
    const scope = canonical(scopeKey, 'streamRegistry.evict')
    const claims = this.#backend.scope(scope).filter(({ key }) => tabId === undefined || key.tabId === tabId)
    for (const claim of claims) claim.end('evicted')
    const [others] = await Promise.all([this.#cluster.evict(scope, tabId), this.#waitFor(claims, performance.now() + this.#options.replaceTimeout)])
    return claims.length + others
  }

  async count (scopeKey: ScopeKey): Promise<number> {
    const scope = canonical(scopeKey, 'streamRegistry.count')
    const others = await this.#cluster.count(scope)
    return this.#backend.scope(scope).length + others
  }

  /** Ends every stream, waits until all are gone or `timeout` milliseconds are over, and takes no more. */
  async close (timeout: number): Promise<void> {
    this.#closed = true
    const claims = new Set([...this.#backend, ...this.#held])
    for (const claim of claims) claim.end('shutdown')
    await this.#waitFor([...claims], performance.now() + timeout)
  }

  /** Forgets those that were not gone when the registry closed. */
  clear (): void {
    for (const claim of this.#held) this.#forget(claim)
    for (const claim of this.#backend) this.#forget(claim)
  }

  #hold (claim: RegisteredClaim): void {
    claim.holds = true
    this.#held.add(claim)
  }

  #noteWhenGone (claim: RegisteredClaim): void {
    const noteGone = () => {
      claim.holderIsGone = true
      if (!claim.waits) this.#forget(claim)
    }
    claim.holder.gone.then(noteGone, noteGone)
  }

  #forget (claim: RegisteredClaim): void {
    claim.noteGone()
    this.#held.delete(claim)
    this.#backend.release(claim)
    this.#cluster.release(claim)
  }

  #replace (previous: RegisteredClaim, claim: RegisteredClaim): void {
    previous.end('replaced', claim.holder)
    if (claim.replaces(previous)) this.#reportFlapping(claim.key)
  }

  #reportFlapping (key: StreamKey): void {
    reportFlapping({ key })
    const { scope, tabId, name } = key
    this.#log.warn(
      { scope, tabId, name },
      `the stream of one tab was replaced more than ${FLAPPING_TIMES} times in ${FLAPPING_MS / 1000} s: most likely two tabs share one tab id`
    )
  }

  // Those whose end a newcomer has to wait for because its scope is full; its own predecessor leaves anyway.
  #crowd (key: StreamKey): readonly RegisteredClaim[] {
    const { maxStreamsPerScope, onLimit } = this.#options
    if (maxStreamsPerScope === Infinity) return NOBODY
    const others = this.#backend.scope(key.scope).filter(other => other.key.slot !== key.slot)
    if (others.length < maxStreamsPerScope) return NOBODY
    if (onLimit === 'reject') throw new FST_ERR_OCTA_STAR_LIMIT(maxStreamsPerScope)
    const ending = others.filter(other => other.ending)
    const live = others.filter(other => !other.ending)
    return [...ending, ...live.slice(0, Math.max(0, live.length - maxStreamsPerScope + 1))]
  }

  // Every wait is bounded. Who is not gone by then is waited for no longer, by nobody.
  #waitFor (claims: readonly RegisteredClaim[], until: number, elsewhere?: Promise<unknown>): Promise<void> {
    const whenOver = claims.length === 1 && elsewhere === undefined
      ? (over: () => void) => claims[0]!.whenGone(over)
      : (over: () => void) => { Promise.allSettled([elsewhere, ...claims.map(claim => claim.gone)]).then(over) }
    return settled(whenOver, until, () => {
      for (const claim of claims) {
        if (!claim.isGone) claim.destroy()
      }
    })
  }
}
