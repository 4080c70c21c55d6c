// Redis's clock as this process estimates that clock, from the times in Redis's replies.

export class RedisClock {
  /** How far Redis's clock is ahead of this process's clock. Unit: microseconds. */
  #offset: number | undefined

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
}

/**
 * This process's clock. Unit: microseconds since the epoch. Setting the system's clock does not change this clock:
 * https://www.w3.org/TR/hr-time-3/#sec-monotonic-clock
 */
export function ownTime (): number {
  return (performance.timeOrigin + performance.now()) * 1000
}
