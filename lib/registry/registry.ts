// Decides who holds which stream key: the newest holder wins, a key has a single holder at a time, and every wait is bounded.
import type { FastifyBaseLogger } from 'fastify'
import { DelayQueue } from '../delay-queue.ts'
import { reportFlapping, reportOffline } from '../diagnostics.ts'
import { FST_ERR_OCTA_STAR_EVICT, FST_ERR_OCTA_STAR_HOLDER, FST_ERR_OCTA_STAR_LIMIT, FST_ERR_OCTA_STAR_SEND_OPTION, FST_ERR_OCTA_STAR_STREAM_KEY, FST_ERR_OCTA_STAR_TAB_ID, show } from '../errors.ts'
import type { Serializer } from '../event.ts'
import { List, type Linked } from '../list.ts'
import { kObserver } from '../observer.ts'
import { deferred, within } from '../wait.ts'
import { callHolder, Claim, isReporting, type ClaimOwner, type Deadline, type ReportingHolder } from './claim.ts'
import { FLAPPING_MS, FLAPPING_TIMES } from './flapping.ts'
import { inTurns } from './in-turns.ts'
import { LocalClaims } from './local-claims.ts'
import { audienceOf, Reach, type Audience, type OwnStreams } from './reach.ts'
import { Presence } from './presence.ts'
import { Seats } from './seats.ts'
import { canonical, keyFor, scopeKeyOf } from './stream-key.ts'
import type { Cluster, ClusterMessage } from '../../types/cluster.ts'
import type { SendOptions, StreamRegistry } from '../../types/index.ts'
import type { CloseReason, Holder, MessageTarget, ScopeKey, Stream, StreamInfo, StreamKey, StreamMessage } from '../../types/stream.ts'

export interface RegistryOptions {
  readonly replaceTimeout: number
  readonly maxStreamsPerScope: number
  readonly onLimit: 'replace-oldest' | 'reject'
  readonly offlineDelay: number
  /** Serialises the data of messages. Default: `JSON.stringify`. */
  readonly serialize?: Serializer | undefined
}

/** What a claim waits for. */
interface Others {
  /** The present claim on the key. */
  readonly predecessor: Claim | undefined
  /** The claim that makes room in a full scope. */
  readonly evictee: Claim | undefined
  /** Resolves when no other process has a stream on the key. */
  readonly elsewhere: Promise<unknown> | undefined
}

/** A stream that has no claim yet, because hooks of the application run, or because the plugin checks that the client is still connected. */
interface Starting extends Linked<Starting> {
  readonly key: StreamKey
  readonly stream: ReportingHolder
}

export class Registry implements StreamRegistry, ClaimOwner, OwnStreams {
  /** Connects the registries of several processes. Set before the first claim. Without a cluster nobody else can hold a key. */
  cluster: Cluster | undefined
  readonly log: FastifyBaseLogger
  readonly deadlines: DelayQueue<Deadline>
  readonly #claims = new LocalClaims<Claim>()
  readonly #options: RegistryOptions
  readonly #seats: Seats<Claim> | undefined
  readonly #reach: Reach
  readonly #presence: Presence
  // Claims that took their key and are not released yet. A replaced claim that cleans up is still in here.
  readonly #held = new List<Claim>()
  readonly #starting = new List<Starting>()
  #lastOrder = 0
  #givenUp = 0
  #isClosed = false

  constructor (options: RegistryOptions, log: FastifyBaseLogger) {
    this.#options = options
    this.log = log
    this.deadlines = new DelayQueue(options.replaceTimeout, due => due.giveUp())
    this.#presence = new Presence(this, options.offlineDelay)
    this.#reach = new Reach(this, options.serialize)
    if (options.maxStreamsPerScope !== Infinity) this.#seats = new Seats(options.maxStreamsPerScope)
  }

  get size (): number {
    return this.#held.size
  }

  get givenUp (): number {
    return this.#givenUp
  }

  get replaceTimeout (): number {
    return this.#options.replaceTimeout
  }

  * [Symbol.iterator] (): Iterator<Stream | Holder> {
    // Holders may end during the iteration.
    for (const claim of this.#held.toArray()) if (!claim.isReleased) yield claim.holder
  }

  get (scopeKey: ScopeKey, tabId: string, name?: string): Stream | Holder | undefined {
    const claim = this.#claims.get(keyFor('streamRegistry.get', scopeKey, tabId, name))
    return claim !== undefined && this.#held.has(claim) ? claim.holder : undefined
  }

  replaceAndRegister (key: StreamKey, holder: Holder): Promise<boolean> {
    try {
      checkStreamKey(key)
      const newest = this.#claims.get(key)
      if (newest !== undefined && newest.holder === holder) return holdsAgain(newest)
      checkHolder(holder)
      return Promise.resolve(this.register(key, holder, this.nextOrder(), newest))
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /** Returns the next place in the order of starts. Call it when a start is requested, before the first await. */
  nextOrder (): number {
    return ++this.#lastOrder
  }

  /** Lets `evict` end a stream that waits for its start. Call `deleteStarting` when the wait is over. */
  addStarting (key: StreamKey, stream: ReportingHolder): Starting {
    const starting: Starting = { key, stream, previous: undefined, next: undefined }
    this.#starting.add(starting)
    return starting
  }

  deleteStarting (starting: Starting): void {
    this.#starting.delete(starting)
  }

  /** Returns `true` if a claim on `key` would end another holder, as far as this process can know. */
  wouldEndHolder (key: StreamKey): boolean {
    return this.cluster !== undefined || this.#claims.get(key) !== undefined || this.#seats?.isFull(key.scope) === true
  }

  /** @throws FST_ERR_OCTA_STAR_LIMIT if the scope of `key` is full and `onLimit` is `'reject'` */
  checkLimit (key: StreamKey): void {
    const { maxStreamsPerScope, onLimit } = this.#options
    if (this.#seats === undefined || onLimit !== 'reject') return
    this.#seats.noticeEnds(key.scope)
    const others = this.#claims.countScope(key.scope) - (this.#claims.get(key) === undefined ? 0 : 1)
    if (others >= maxStreamsPerScope) throw new FST_ERR_OCTA_STAR_LIMIT(maxStreamsPerScope)
  }

  /**
   * Ends the present holder of `key`, waits for the end, and lets `holder` hold the key. Of several holders on a key, the
   * holder with the highest `order` is left. Returns `false` if `holder` has begun to end before that. Returns a promise only
   * if `holder` has to wait.
   *
   * @throws FST_ERR_OCTA_STAR_LIMIT, see `checkLimit`
   */
  register (key: StreamKey, holder: Holder, order: number, newest = this.#claims.get(key)): boolean | Promise<boolean> {
    const isSuperseded = newest !== undefined && newest.order > order && !newest.isEnding
    if (this.#isClosed || isSuperseded) {
      callHolder(this.log, key, holder, 'close', this.#isClosed ? 'shutdown' : 'replaced')
      return false
    }
    this.checkLimit(key)
    // The claim is made before the first await: from here on everybody who claims this key finds the claim.
    const claim = new Claim(key, holder, order, this)
    const predecessor = this.#claims.claim(claim)
    const evictee = this.#seats?.evicteeFor(key.scope, predecessor)
    const hasSeat = this.#seats?.enter(claim, predecessor) ?? true
    const elsewhere = this.cluster?.claim(claim)
    if (predecessor === undefined && hasSeat && elsewhere === undefined) return this.#hold(claim)
    return this.#holdAfter(claim, { predecessor, evictee, elsewhere })
  }

  async #holdAfter (claim: Claim, { predecessor, evictee, elsewhere }: Others): Promise<boolean> {
    // Set before anybody is told to end: an end may set off the next claim on this key, and so the end of this claim.
    claim.isBehindOthers = true
    if (predecessor !== undefined) this.#replace(predecessor, claim)
    evictee?.endHolder('evicted', claim.holder)
    // A claim whose holder is gone at once is released during this await, and needs no deadline and no promise.
    await undefined
    evictee?.startDeadline()
    if (predecessor?.isReleased === false) {
      predecessor.startDeadline()
      await predecessor.released
    }
    const seated = this.#seats?.seated(claim)
    if (seated !== undefined) await seated
    if (elsewhere !== undefined) await within(elsewhere, Math.max(0, claim.since + this.replaceTimeout - performance.now()))
    claim.isBehindOthers = false
    const holds = this.#hold(claim)
    claim.held?.resolve(holds)
    if (claim.isHolderGone && !claim.isReleased) this.#release(claim)
    return holds
  }

  #replace (predecessor: Claim, claim: Claim): void {
    predecessor.endHolder('replaced', claim.holder)
    if (claim.countReplacement(predecessor)) this.#reportFlapping(claim.key)
  }

  #hold (claim: Claim): boolean {
    const holds = claim.hold()
    if (holds) {
      this.#held.add(claim)
      if (isReporting(claim.holder)) {
        claim.holder.open()
        claim.isPresent = this.#presence.opened(claim.key)
      }
    }
    return holds
  }

  // A claim that ends while waiting is released only after the wait, because the successor must wait for the same claims.
  holderGone (claim: Claim): void {
    if (claim.isGivenUp) this.#givenUp--
    else if (!claim.isBehindOthers) this.#release(claim)
  }

  #release (claim: Claim): void {
    claim.release()
    if (claim.isPresent) this.#presence.gone(claim.key)
    if (this.#held.has(claim)) this.#held.delete(claim)
    this.#claims.release(claim)
    this.#seats?.leave(claim)
    this.cluster?.release(claim)
  }

  claimEnding (claim: Claim): void {
    this.#seats?.claimEnding(claim)
  }

  giveUp (claim: Claim): void {
    this.#givenUp++
    this.#release(claim)
  }

  async evict (scopeKey: ScopeKey, tabId?: string): Promise<number> {
    const scope = canonical(scopeKey, 'streamRegistry.evict')
    // The tab id may come from a request. A value that equals no tab id would evict nobody, without a word.
    if (tabId !== undefined && typeof tabId !== 'string') throw new FST_ERR_OCTA_STAR_TAB_ID(show(tabId))
    // The call decides which claims are evicted. A large scope ends over several turns, in which new streams may start.
    const isMeant = ({ key }: { readonly key: StreamKey }) => tabId === undefined || key.tabId === tabId
    const claims = this.#claims.scope(scope).filter(isMeant)
    // A stream with an observer has a claim.
    const starting = this.#starting.toArray().filter(start => start.key.scope === scope && isMeant(start) && start.stream[kObserver] === undefined)
    const ended = [this.#endAll(claims, 'evicted'), this.#endStarting(starting)]
    const [[others]] = await Promise.all([Promise.allSettled([this.cluster?.evict(scope, tabId)]), ...ended])
    if (others.status === 'rejected') throw evictError(others.reason)
    return claims.length + starting.length + (others.value ?? 0)
  }

  /** Ends the holders of `claims`, and gives those up that are not gone within `replaceTimeout`. Resolves when all claims are released. */
  async #endAll (claims: readonly Claim[], reason: CloseReason): Promise<void> {
    const allReleased = deferred<void>()
    let left = claims.length
    const onRelease = () => { if (--left === 0) allReleased.resolve() }
    await inTurns(claims, claim => {
      claim.endHolder(reason)
      claim.whenReleased(onRelease)
    })
    if (left === 0) return
    // One deadline for all, because most holders are gone by now. In the queue of the other deadlines, because a claim that waits must not be
    // given up before its predecessor.
    const deadline = this.deadlines.add({ giveUp: () => { inTurns(claims, claim => claim.giveUp()) } })
    await allReleased.promise
    this.deadlines.delete(deadline)
  }

  /** Ends streams that have no claim, and so no deadline. Resolves when these streams are gone, or after `replaceTimeout`. */
  async #endStarting (starting: readonly Starting[]): Promise<void> {
    await inTurns(starting, ({ stream }) => stream.close('evicted'))
    if (starting.length > 0) await within(Promise.all(starting.map(({ stream }) => stream.gone)), this.replaceTimeout)
  }

  async count (scopeKey: ScopeKey): Promise<number> {
    const scope = canonical(scopeKey, 'streamRegistry.count')
    const others = await this.cluster?.count(scope)
    // The cluster counts the newer claim.
    return this.#claims.scope(scope).filter(claim => !claim.isReplacedElsewhere).length + (others ?? 0)
  }

  send (scopeKey: ScopeKey, message: string | StreamMessage, options?: SendOptions): Promise<number> {
    return this.#send(() => audienceOf(canonical(scopeKey, 'streamRegistry.send'), options), message)
  }

  broadcast (message: string | StreamMessage, options?: undefined): Promise<number> {
    return this.#send(() => noOptions(options), message)
  }

  to (scopeKey: ScopeKey, options?: SendOptions): MessageTarget {
    const audience = audienceOf(canonical(scopeKey, 'streamRegistry.to'), options)
    return { send: message => this.#send(() => audience, message) }
  }

  #send (audience: () => Audience | undefined, message: string | StreamMessage): Promise<number> {
    let sent
    try {
      sent = this.#reach.send(this.cluster, audience(), message)
    } catch (error) {
      sent = Promise.reject(error)
    }
    if (typeof sent === 'number') return Promise.resolve(sent)
    // Whoever does not await the promise must learn of the error, and a message that cannot be sent must not end the process.
    sent.catch(err => this.log.warn({ err }, 'a message could not be sent by streamRegistry'))
    return sent
  }

  /** Sends a message of another process to the streams of this process. */
  deliver (message: ClusterMessage): number {
    return this.#reach.deliver(message)
  }

  streams (scopeKey: ScopeKey): Stream[] {
    return this.streamsIn(canonical(scopeKey, 'streamRegistry.streams'))
  }

  async list (scopeKey: ScopeKey): Promise<StreamInfo[]> {
    const scope = canonical(scopeKey, 'streamRegistry.list')
    const others = await this.cluster?.list(scope)
    return [...this.#reach.list(scope), ...others ?? []]
  }

  /** The cluster has found that no process has a stream in `scope` any more, because a process has ended. */
  wentOffline (scope: string): void {
    reportOffline({ scopeKey: scopeKeyOf(scope) })
  }

  /** Tells another process of this process's open streams in `scope`. */
  listOwn (scope: string): StreamInfo[] {
    return this.#reach.list(scope)
  }

  claimsIn (scope: string | undefined): Iterable<Claim> {
    return scope === undefined ? this.#held.toArray() : this.#claims.scope(scope)
  }

  streamsIn (scope: string): Stream[] {
    const streams = []
    for (const claim of this.#claims.scope(scope)) if (isOpenStream(claim)) streams.push(claim.holder)
    return streams
  }

  /** Refuses new holders, ends all present holders, and waits for them, for at most `timeout` milliseconds. */
  async close (timeout: number): Promise<void> {
    this.#isClosed = true
    // The claims that wait come first, so that none of their streams opens before its turn.
    const waiting = this.#claims.toArray().filter(claim => !this.#held.has(claim))
    const claims = [...waiting, ...this.#held.toArray()]
    if (!await within(this.#endAll(claims, 'shutdown'), timeout)) {
      await inTurns(claims, claim => {
        // A timeout may be too short for ending many claims.
        claim.endHolder('shutdown')
        claim.giveUp()
      })
    }
    this.#presence.close()
  }

  #reportFlapping (key: StreamKey): void {
    reportFlapping({ key })
    const { scope, tabId, name } = key
    this.log.warn(
      { scope, tabId, name },
      `a stream key was replaced more than ${FLAPPING_TIMES} times in ${FLAPPING_MS / 1000} s. Most likely two tabs use the same tab id`
    )
  }
}

/** The result for a holder that is registered once more on the same key. */
function holdsAgain (claim: Claim): Promise<boolean> {
  if (!claim.isBehindOthers) return Promise.resolve(!claim.isEnding)
  claim.held ??= deferred()
  return claim.held.promise
}

/** The error of `evict`. An adapter may reject with any error. */
function evictError (cause: unknown): unknown {
  if ((cause as { code?: unknown } | undefined)?.code === 'FST_ERR_OCTA_STAR_EVICT') return cause
  return Object.assign(new FST_ERR_OCTA_STAR_EVICT(cause instanceof Error ? cause.message : String(cause)), { cause })
}

// A tab id belongs to a scope. Ignored options would send the message to streams that the caller wanted to leave out.
function noOptions (options: unknown): Audience {
  if (options === undefined) return {}
  throw new FST_ERR_OCTA_STAR_SEND_OPTION('options', 'left out in broadcast(message). To leave a tab out, call send(scopeKey, message, { except })', show(options))
}

function isOpenStream (claim: Claim): claim is Claim & { readonly holder: Stream } {
  return isReporting(claim.holder) && claim.holder.openedAt > 0 && !claim.isEnding
}

function checkStreamKey (key: unknown): void {
  const { scope, slot } = (key ?? {}) as Partial<StreamKey>
  if (typeof scope !== 'string' || typeof slot !== 'string') throw new FST_ERR_OCTA_STAR_STREAM_KEY(show(key))
}

function checkHolder (holder: unknown): void {
  const { close, gone, [kObserver]: observer } = (holder ?? {}) as Partial<ReportingHolder>
  if (observer !== undefined) throw new FST_ERR_OCTA_STAR_HOLDER('no stream key yet', 'a stream of startStream. Register an object of your own that closes the stream')
  if (typeof close !== 'function') throw new FST_ERR_OCTA_STAR_HOLDER('a method `close`', show(close))
  if (typeof gone?.then !== 'function') throw new FST_ERR_OCTA_STAR_HOLDER('a promise `gone`', show(gone))
}
