// A holder's claim on a stream key: waiting -> holding -> ending -> released. Any state may be skipped, none comes back.
import type { FastifyBaseLogger } from 'fastify'
import { reportReplace } from '../diagnostics.ts'
import { Replacements } from './flapping.ts'
import type { ClusterClaim } from '../../types/cluster.ts'
import type { CloseReason, Holder, StreamKey } from '../../types/stream.ts'

// Stands in for the holder after release, so that the holder can be collected. Its methods are never called.
const NO_HOLDER = {} as Holder

export class Claim implements ClusterClaim {
  #state: 'waiting' | 'holding' | 'ending' | 'released' = 'waiting'
  /** Resolves when the predecessors are released or given up. `undefined` after that, and if there are no predecessors. */
  predecessorsReleased: Promise<void> | undefined
  readonly key: StreamKey
  #holder: Holder
  /** When the claim was made. Unit: milliseconds of `performance.now()`. */
  readonly since = performance.now()
  readonly #log: FastifyBaseLogger
  #onRelease: Array<() => void> | undefined
  /** Passed on from claim to claim of a key. Created by the first replacement. */
  #replacements: Replacements | undefined

  constructor (key: StreamKey, holder: Holder, log: FastifyBaseLogger) {
    this.key = key
    this.#holder = holder
    this.#log = log
  }

  get holder (): Holder {
    return this.#holder
  }

  get isEnding (): boolean {
    return this.#state === 'ending' || this.#holder.closing === true
  }

  get isReleased (): boolean {
    return this.#state === 'released'
  }

  get released (): Promise<void> {
    return new Promise(resolve => this.whenReleased(resolve))
  }

  /** Calls `callback` when the claim is released, or at once if the claim is released already. */
  whenReleased (callback: () => void): void {
    if (this.#state === 'released') callback()
    else (this.#onRelease ??= []).push(callback)
  }

  /** Takes the key. Returns `false` if the holder began to end while the claim was waiting. */
  hold (): boolean {
    if (this.#state !== 'waiting' || this.isEnding) return false
    this.#state = 'holding'
    return true
  }

  /** Ends the holder. `successor` is the holder that takes the key, if that holder is in this process. */
  end (reason: CloseReason, successor?: Holder): void {
    if (this.#state === 'ending' || this.#state === 'released') return
    if (reason === 'replaced' && this.#state === 'holding' && !this.isEnding) reportReplace(this.#holder, successor, this.since)
    this.#state = 'ending'
    this.#callHolder('close', () => this.#holder.close(reason))
  }

  /** Destroys a holder that is not waited for any longer. */
  destroy (): void {
    this.#callHolder('destroy', () => this.#holder.destroy?.())
  }

  /** Called when the holder is gone and the claim no longer waits for predecessors, or when the registry is cleared. */
  release (): void {
    this.#state = 'released'
    // V8 keeps the old tables of a growing Map or Set, with everything in them, until the next full collection
    // (OrderedHashTable in https://github.com/v8/v8/blob/main/src/objects/ordered-hash-table.h). A claim may stay in such a
    // table. The holder with its request and response must not.
    this.#holder = NO_HOLDER
    const callbacks = this.#onRelease ?? []
    this.#onRelease = undefined
    for (const callback of callbacks) callback()
  }

  /** Counts a replacement of `predecessor` by this claim. Returns `true` the first time the key flaps. */
  countReplacement (predecessor: Claim): boolean {
    this.#replacements = predecessor.#replacements ?? new Replacements()
    return this.#replacements.add(this.since)
  }

  // The holder may be the application's. An error in a holder must not stop the end of another holder or a successor's start.
  #callHolder (method: string, call: () => void): void {
    try {
      call()
    } catch (err) {
      const { scope, tabId, name } = this.key
      this.#log.warn({ err, scope, tabId, name }, `a holder's ${method}() threw an error`)
    }
  }
}
