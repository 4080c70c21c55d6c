// Redis's clock as this process estimates that clock, from the times in Redis's replies, and by that clock the time at which a command was made.
import type { Timing } from './protocol.ts'

export class RedisClock {
  /** How far Redis's clock is ahead of this process's clock. Unit: microseconds. */
  #offset: number | undefined
  readonly #tolerance: number

  /** `tolerance` is how late a claim or an eviction may reach Redis and still count from the arrival. Unit: milliseconds. */
  constructor (tolerance: number) {
    this.#tolerance = tolerance
  }

  /** Whether a reply has told the time. */
  get isKnown (): boolean {
    return this.#offset !== undefined
  }

  /** Only once the time is known. Unit: microseconds. */
  get now (): number {
    return Math.round(ownTime() + this.#offset!)
  }

  /**
   * Learns from a reply in which Redis told the time `now`, to a command sent at `sentAt`.
   *
   * A reply only bounds the offset: Redis read its clock between our send and our read. The bounds are narrowed, not
   * averaged, because a process that was suspended reads a reply late. A late reply must not set the clock back: the next
   * claim of the process would count as an old claim.
   */
  learn (now: number, sentAt: number): void {
    const [least, most] = [now - ownTime(), now - sentAt]
    this.#offset = Math.max(least, Math.min(this.#offset ?? most, most))
  }

  /** What Redis's clock showed at `at`. Only once the time is known. Unit of `at`: milliseconds of `performance.now()`. */
  timeOf (at: number): number {
    return Math.round(this.now - (performance.now() - at) * 1000)
  }

  /** The timing of a command that is made now. */
  onTime (): Timing {
    return { at: this.isKnown ? this.now : 0, tolerance: this.#tolerance * 1000 }
  }

  /**
   * Redis says that a command made at `madeAt` came late. If this process's own stopwatch agrees, the command counts from
   * `madeAt`. Otherwise the estimate of Redis's clock was wrong, for example because the machine was suspended.
   */
  lateTiming (madeAt: number): Timing {
    const elapsed = performance.now() - madeAt
    return elapsed > this.#tolerance ? { at: this.timeOf(madeAt), tolerance: -1 } : { at: 0, tolerance: 0 }
  }
}

/**
 * This process's clock. Unit: microseconds since the epoch. Setting the system's clock does not change this clock:
 * https://www.w3.org/TR/hr-time-3/#sec-monotonic-clock
 */
export function ownTime (): number {
  return (performance.timeOrigin + performance.now()) * 1000
}
