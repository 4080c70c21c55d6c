// A holder's claim on a stream key: waiting -> holding -> ending -> released. A claim never returns to an earlier state.
import type { FastifyBaseLogger } from 'fastify'
import { reportReplace } from '../diagnostics.ts'
import { kObserver, type HolderObserver } from '../observer.ts'
import { Replacements } from './flapping.ts'
import type { LimitedClaim, ScopeEntry } from './seats.ts'
import type { Delayed, DelayQueue } from '../delay-queue.ts'
import type { SharedEvent } from '../event.ts'
import type { Linked } from '../list.ts'
import type { Deferred } from '../wait.ts'
import type { ClusterClaim } from '../../types/cluster.ts'
import type { CloseReason, Holder, Stream, StreamKey } from '../../types/stream.ts'

/** A claim, or several claims with the same deadline. */
export interface Deadline {
  giveUp (): void
}

/** What a claim needs of the registry. */
export interface ClaimOwner {
  readonly log: FastifyBaseLogger
  /** Gives claims up `replaceTimeout` after the end of their holders began. */
  readonly deadlines: DelayQueue<Deadline>
  /** The holder has begun to end. */
  claimEnding (claim: Claim): void
  /** The holder is gone. Also called for a holder that was given up and is gone after all. */
  holderGone (claim: Claim): void
  /** The holder was not gone within `replaceTimeout` after it began to end, or before the server's close timed out. */
  giveUp (claim: Claim): void
}

/** A stream: a holder that is opened when the claim holds the key, and that reports when it begins to end and when it is gone. */
export interface ReportingHolder extends Stream {
  [kObserver]: HolderObserver | undefined
  open (): void
  /** Sends an event that is formatted already, and does not wait for a slow client. Returns `false` if the stream is not open. */
  push (event: SharedEvent): boolean
}

// Stands in for the holder after release, so that the holder can be collected. The methods are never called.
const NO_HOLDER = {} as Holder

export class Claim implements ClusterClaim, HolderObserver, LimitedClaim<Claim>, Linked<Claim> {
  #state: 'waiting' | 'holding' | 'ending' | 'released' = 'waiting'
  /** `true` while this claim waits for predecessors, in this process and in the cluster, or for a seat. */
  isBehindOthers = false
  /** Set if the holder is registered once more while the claim waits. Resolves to whether the claim has taken the key. */
  held: Deferred<boolean> | undefined
  /** `true` if the stream was counted as present in the scope, see presence.ts. */
  isPresent = false
  /** `true` if the claim was released although the holder was not gone. */
  isGivenUp = false
  /** `true` if another process has made a newer claim on the key. */
  isReplacedElsewhere = false
  readonly key: StreamKey
  /** Orders the claims of a key by the calls that made the claims. */
  readonly order: number
  #holder: Holder
  /** When the claim was made. Unit: milliseconds of `performance.now()`. */
  readonly since = performance.now()
  readonly #owner: ClaimOwner
  /** Set when the end begins. */
  #deadline: Delayed<Deadline> | undefined
  /** `true` if nothing of the holder runs any more, although the claim may still wait for others. */
  isHolderGone = false
  scopeEntry: ScopeEntry<Claim> | undefined
  // The neighbours in the registry's list of claims that took their key.
  previous: Claim | undefined
  next: Claim | undefined
  // Most claims have a single callback, and need no array.
  #onRelease: (() => void) | Array<() => void> | undefined
  /** Passed on from claim to claim of a key. Created by the first replacement. */
  #replacements: Replacements | undefined

  constructor (key: StreamKey, holder: Holder, order: number, owner: ClaimOwner) {
    this.key = key
    this.order = order
    this.#holder = holder
    this.#owner = owner
    if (isReporting(holder)) {
      holder[kObserver] = this
    } else {
      const onGone = () => this.holderGone()
      holder.gone.then(onGone, onGone)
    }
  }

  get holder (): Holder {
    return this.#holder
  }

  get isEnding (): boolean {
    return this.#state === 'ending' || this.#holder.closing === true
  }

  /** `true` if only `isEnding` shows that the holder has begun to end by itself. */
  get mayEndSilently (): boolean {
    return !isReporting(this.#holder) && 'closing' in this.#holder
  }

  get isReleased (): boolean {
    return this.#state === 'released'
  }

  get released (): Promise<void> {
    return new Promise(resolve => this.whenReleased(resolve))
  }

  /** Calls `callback` when the claim is released, or at once if the claim is released already. */
  whenReleased (callback: () => void): void {
    const others = this.#onRelease
    if (this.#state === 'released') callback()
    else if (others === undefined) this.#onRelease = callback
    else if (typeof others === 'function') this.#onRelease = [others, callback]
    else others.push(callback)
  }

  /** Takes the key. Returns `false` if the holder began to end while the claim was waiting. */
  hold (): boolean {
    if (this.#state !== 'waiting' || this.isEnding) return false
    this.#state = 'holding'
    return true
  }

  /** Called by the cluster. Ends the holder, which from now on has `replaceTimeout` to be gone. */
  end (reason: CloseReason): void {
    if (reason === 'replaced') this.isReplacedElsewhere = true
    this.endHolder(reason)
    this.startDeadline()
  }

  /**
   * Ends the holder. Whoever calls this bounds the time until the holder is gone. Most holders are gone at once, and need no deadline.
   * `successor` is the holder that waits for the end, if the successor is in this process.
   */
  endHolder (reason: CloseReason, successor?: Holder): void {
    if (this.#state === 'ending' || this.#state === 'released') return
    if (reason === 'replaced' && this.#state === 'holding' && !this.isEnding) reportReplace(this.#holder, successor, this.since)
    // A subscriber may have ended the holder.
    if (this.isReleased) return
    this.#state = 'ending'
    this.#owner.claimEnding(this)
    callHolder(this.#owner.log, this.key, this.#holder, 'close', reason)
  }

  /** The holder has begun to end. */
  holderEnding (): void {
    this.#owner.claimEnding(this)
    this.startDeadline()
  }

  /** From now on the holder has `replaceTimeout` to be gone. */
  startDeadline (): void {
    if (this.#deadline === undefined && this.#state !== 'released') this.#deadline = this.#owner.deadlines.add(this)
  }

  holderGone (): void {
    this.isHolderGone = true
    this.#owner.holderGone(this)
  }

  /** Stops waiting for the holder, with a warning. Destroys what can be destroyed, and has the claim released. */
  giveUp (): void {
    // A claim whose holder is gone only waits for its predecessors, which have deadlines of their own.
    if (this.#state === 'released' || this.isHolderGone) return
    // A stream's `destroy` writes a warning that names the route and what still runs.
    if (!isReporting(this.#holder)) warn(this.#owner.log, this.key, undefined, 'a holder was not gone within replaceTimeout and is not waited for any longer')
    this.isGivenUp = true
    callHolder(this.#owner.log, this.key, this.#holder, 'destroy')
    this.#owner.giveUp(this)
  }

  /** The holder is gone or given up, and so are the predecessors of this claim. */
  release (): void {
    this.#state = 'released'
    if (this.#deadline !== undefined) this.#owner.deadlines.delete(this.#deadline)
    // V8 keeps the old tables of a growing Map or Set, with all entries, until the next full collection
    // (OrderedHashTable in https://github.com/v8/v8/blob/main/src/objects/ordered-hash-table.h). A claim may stay in an
    // old table. The holder with the request and the response must not.
    this.#holder = NO_HOLDER
    const onRelease = this.#onRelease
    this.#onRelease = undefined
    if (typeof onRelease === 'function') onRelease()
    else onRelease?.forEach(callback => callback())
  }

  /** Counts a replacement of `predecessor` by this claim. Returns `true` the first time the key flaps. */
  countReplacement (predecessor: Claim): boolean {
    this.#replacements = predecessor.#replacements ?? new Replacements()
    return this.#replacements.add(this.since)
  }
}

/**
 * Calls a method of a holder, which may be the application's. An error in a holder must not prevent the end of other holders or the start of a
 * successor, and a rejected promise must not end the process.
 */
export function callHolder (log: FastifyBaseLogger, key: StreamKey, holder: Holder, method: 'close' | 'destroy', reason?: CloseReason): void {
  const { [method]: call }: { close (reason?: CloseReason): unknown, destroy? (): unknown } = holder
  try {
    const result = call?.call(holder, reason)
    if (result instanceof Promise) result.catch(err => warn(log, key, err, `a holder's ${method}() failed`))
  } catch (err) {
    warn(log, key, err, `a holder's ${method}() failed`)
  }
}

function warn (log: FastifyBaseLogger, { scope, tabId, name }: StreamKey, err: unknown, message: string): void {
  log.warn({ ...err === undefined ? {} : { err }, scope, tabId, name }, message)
}

export function isReporting (holder: Holder): holder is ReportingHolder {
  return kObserver in holder
}
