// A claim as the registry keeps it: how far its holder has come, who waits for it, and how often its key changed hands.
import type { FastifyBaseLogger } from 'fastify'
import type { Claim } from './backend.ts'
import { reportReplace } from './diagnostics.ts'
import type { CloseReason, Holder, StreamKey } from '../types/index.ts'

export const FLAPPING_TIMES = 10
export const FLAPPING_MS = 10_000

// Nobody ends it, or asks for its end.
const NOBODY = {} as Holder

export class RegisteredClaim implements Claim {
  /** Whether its holder waits for others to be gone. Who comes next has to wait for those as well, even if this one ends meanwhile. */
  waits = false
  /** Whether its holder's wait is over, and it took the key. */
  holds = false
  holderIsGone = false
  /** Whether the registry has told the holder to end. */
  #told = false
  #isGone = false
  #whenGone: Array<() => void> | undefined
  /** Handed from claim to claim, made by the first replacement. */
  #replacements: Replacements | undefined

  readonly key: StreamKey
  #holder: Holder
  /** Unit: milliseconds of `performance.now()`. */
  readonly since = performance.now()
  readonly #log: FastifyBaseLogger

  constructor (key: StreamKey, holder: Holder, log: FastifyBaseLogger) {
    this.key = key
    this.#holder = holder
    this.#log = log
  }

  get holder (): Holder {
    return this.#holder
  }

  get ending (): boolean {
    return this.#told || this.holder.closing === true
  }

  get isGone (): boolean {
    return this.#isGone
  }

  get gone (): Promise<void> {
    return new Promise(resolve => this.whenGone(resolve))
  }

  /** Calls `callback` when the holder is gone, and so is everyone that it waited for. */
  whenGone (callback: () => void): void {
    if (this.#isGone) callback()
    else (this.#whenGone ??= []).push(callback)
  }

  noteGone (): void {
    this.#isGone = true
    // A Map or Set that grows leaves its old table with what was in it, chained to the new one, to V8's next full collection:
    // there a claim may stay a while, but not the stream, its request and its response.
    this.#holder = NOBODY
    const callbacks = this.#whenGone ?? []
    this.#whenGone = undefined
    for (const callback of callbacks) callback()
  }

  /** `by` is the one that replaces it, if that is in this process. */
  end (reason: CloseReason, by?: Holder): void {
    if (this.#told || this.#isGone) return
    if (reason === 'replaced' && this.holds && !this.ending) reportReplace(this.holder, by, this.since)
    this.#told = true
    try {
      this.holder.close(reason)
    } catch (err) {
      this.#warn('close', err)
    }
  }

  destroy (): void {
    try {
      this.holder.destroy?.()
    } catch (err) {
      this.#warn('destroy', err)
    }
  }

  /** Notes that it replaces `previous`; returns whether that makes a key that flaps, for the first time. */
  replaces (previous: RegisteredClaim): boolean {
    this.#replacements = previous.#replacements ?? new Replacements()
    return this.#replacements.add(this.since)
  }

  // The holder may be the application's. What it throws must not keep others from their end, or a newcomer from its start.
  #warn (method: string, err: unknown): void {
    const { scope, tabId, name } = this.key
    this.#log.warn({ err, scope, tabId, name }, `a holder failed in its ${method}()`)
  }
}

/** When a key was last replaced, as a ring of times. */
class Replacements {
  readonly #times = new Array<number>(FLAPPING_TIMES + 1).fill(-Infinity)
  #count = 0
  #reported = false

  /** Notes one more; returns whether it is the first that makes them too many. */
  add (now: number): boolean {
    this.#times[this.#count++ % this.#times.length] = now
    const oldest = this.#times[this.#count % this.#times.length]!
    if (this.#reported || now - oldest >= FLAPPING_MS) return false
    this.#reported = true
    return true
  }
}
