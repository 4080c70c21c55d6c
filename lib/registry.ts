// Who holds which key: newest wins, one at a time, and nobody waits for ever.
import type { FastifyBaseLogger } from 'fastify'
import type { Backend, Claim } from './backend.ts'
import { reportFlapping, reportReplace } from './diagnostics.ts'
import { FST_ERR_OCTA_STAR_LIMIT } from './errors.ts'
import { canonical, streamKey } from './stream-key.ts'
import { within } from './wait.ts'
import type { CloseReason, Cluster, Holder, ScopeKey, Stream, StreamKey, StreamRegistry } from '../types/index.ts'

const FLAPPING_TIMES = 10
const FLAPPING_MS = 10_000

export interface RegistryOptions {
  readonly replaceTimeout: number
  readonly maxStreamsPerScope: number
  readonly onLimit: 'replace-oldest' | 'reject'
}

/** A claim, and what the registry knows of it. */
export class RegisteredClaim implements Claim {
  gone: Promise<unknown>
  /** When the holder's wait was over. Unit: milliseconds of `performance.now()`; `undefined` while it waits. */
  heldSince: number | undefined
  /** Whether the registry has told the holder to end. */
  told = false
  isGone = false
  /** When this key was last replaced, the oldest first; handed from claim to claim, made by the first replacement. */
  replacements: number[] | undefined
  reportedFlapping = false

  readonly key: StreamKey
  readonly holder: Holder
  readonly #log: FastifyBaseLogger

  constructor (key: StreamKey, holder: Holder, log: FastifyBaseLogger) {
    this.key = key
    this.holder = holder
    this.gone = holder.gone
    this.#log = log
  }

  get ending (): boolean {
    return this.told || this.holder.closing === true
  }

  /** `by` is the one that replaces it, if that is in this process. */
  end (reason: CloseReason, by?: Holder): void {
    if (this.told) return
    if (reason === 'replaced' && this.heldSince !== undefined && !this.ending) {
      reportReplace({ stream: this.holder, by, held: performance.now() - this.heldSince })
    }
    this.told = true
    this.#call('close', () => this.holder.close(reason))
  }

  destroy (): void {
    this.#call('destroy', () => this.holder.destroy?.())
  }

  // The holder may be the application's. What it throws must not keep others from their end, or a newcomer from its start.
  #call (method: string, call: () => void): void {
    try {
      call()
    } catch (err) {
      const { scope, tabId, name } = this.key
      this.#log.warn({ err, scope, tabId, name }, `a holder failed in its ${method}()`)
    }
  }
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
    return claim?.heldSince === undefined ? undefined : claim.holder as Stream
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
    if (previous === undefined && crowd.length === 0 && elsewhere === undefined) {
      this.#forgetWhenGone(claim)
      this.#hold(claim)
      return true
    }

    const waitedFor = this.#waitFor(previous === undefined ? crowd : [previous, ...crowd], elsewhere)
    // Whoever comes next has to wait for those as well, even if this one ends while it waits. Known before any of them is
    // told to end, since that may set off a claim on the same key.
    claim.gone = Promise.allSettled([holder.gone, waitedFor])
    this.#forgetWhenGone(claim)
    if (previous !== undefined) this.#replace(previous, claim)
    for (const other of crowd) other.end('evicted')
    await waitedFor
    if (claim.ending) return false
    this.#hold(claim)
    return true
  }

  async evict (scopeKey: ScopeKey, tabId?: string): Promise<number> {
    const scope = canonical(scopeKey, 'streamRegistry.evict')
    const claims = this.#backend.scope(scope).filter(({ key }) => tabId === undefined || key.tabId === tabId)
    for (const claim of claims) claim.end('evicted')
    const [others] = await Promise.all([this.#cluster.evict(scope, tabId), this.#waitFor(claims)])
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
    await this.#waitFor([...claims], undefined, timeout)
  }

  /** Forgets those that were not gone when the registry closed. */
  clear (): void {
    for (const claim of this.#held) this.#forget(claim)
    for (const claim of this.#backend) this.#forget(claim)
  }

  #hold (claim: RegisteredClaim): void {
    claim.heldSince = performance.now()
    this.#held.add(claim)
  }

  #forgetWhenGone (claim: RegisteredClaim): void {
    const forget = () => this.#forget(claim)
    claim.gone.then(forget, forget)
  }

  #forget (claim: RegisteredClaim): void {
    claim.isGone = true
    this.#held.delete(claim)
    this.#backend.release(claim)
    this.#cluster.release(claim)
  }

  #replace (previous: RegisteredClaim, claim: RegisteredClaim): void {
    previous.end('replaced', claim.holder)

    const now = performance.now()
    const times = claim.replacements = previous.replacements ?? []
    times.push(now)
    if (times.length > FLAPPING_TIMES + 1) times.shift()
    claim.reportedFlapping = previous.reportedFlapping
    if (times.length > FLAPPING_TIMES && now - times[0]! < FLAPPING_MS && !claim.reportedFlapping) this.#reportFlapping(claim)
  }

  #reportFlapping (claim: RegisteredClaim): void {
    claim.reportedFlapping = true
    reportFlapping({ key: claim.key })
    const { scope, tabId, name } = claim.key
    this.#log.warn(
      { scope, tabId, name },
      `the stream of one tab was replaced more than ${FLAPPING_TIMES} times in ${FLAPPING_MS / 1000} s: most likely two tabs share one tab id`
    )
  }

  // Those whose end a newcomer has to wait for because its scope is full; its own predecessor leaves anyway.
  #crowd (key: StreamKey): RegisteredClaim[] {
    const { maxStreamsPerScope, onLimit } = this.#options
    if (maxStreamsPerScope === Infinity) return []
    const others = this.#backend.scope(key.scope).filter(other => other.key.slot !== key.slot)
    if (others.length < maxStreamsPerScope) return []
    if (onLimit === 'reject') throw new FST_ERR_OCTA_STAR_LIMIT(maxStreamsPerScope)
    const ending = others.filter(other => other.ending)
    const live = others.filter(other => !other.ending)
    return [...ending, ...live.slice(0, Math.max(0, live.length - maxStreamsPerScope + 1))]
  }

  // Every wait is bounded. Who is not gone by then is waited for no longer, by nobody.
  async #waitFor (claims: RegisteredClaim[], elsewhere?: Promise<unknown>, timeout = this.#options.replaceTimeout): Promise<void> {
    if (await within(Promise.allSettled([elsewhere, ...claims.map(claim => claim.gone)]), timeout)) return
    for (const claim of claims) {
      if (!claim.isGone) claim.destroy()
    }
  }
}
