// Foreign claims that were asked to end, and that this process waits for. A message tells when a claim is gone; because
// messages may be lost, this process also asks again.
import type { FastifyBaseLogger } from 'fastify'
import { afterReading, deferred, within } from '../wait.ts'
import type { Bucket } from './claims.ts'
import { PAGE, type Asked } from './protocol.ts'

/** A claim that this process waits for. */
export interface PendingEnd {
  readonly asked: Asked
  readonly bucket: Bucket
  /** Whether nobody received the last request. */
  isUnheard: boolean
  /** When to ask again. Unit: milliseconds of `performance.now()`. */
  askAt: number
  isGone: boolean
  readonly settle: () => void
  /** Ends the wait although the claim is not gone. */
  readonly stop: () => void
}

export interface PendingEndsOptions {
  /** The longest wait. Unit: milliseconds. */
  readonly timeout: number
  readonly log: FastifyBaseLogger
  /** Asks once more for the end of claims in a bucket. */
  readonly ask: (bucket: Bucket, pending: PendingEnd[]) => void
}

/** When to ask for the first time. The message of a healthy process comes sooner. Unit: milliseconds. */
const FIRST_ASK_MS = 100
const NEXT_ASK_MS = 400
const TICK_MS = 50
/** How many claims that are gone this process remembers, in case a wait for them begins late. */
const EARLY = 10_000

export class PendingEnds {
  readonly #options: PendingEndsOptions
  // Several waits may be for the same claim.
  readonly #pending = new Map<string, Set<PendingEnd>>()
  // Claims that were gone before this process began to wait. A message may overtake the reply of the command that has asked for
  // the end, because messages travel on another connection.
  readonly #early = new Set<string>()
  #asking: NodeJS.Timeout | undefined
  #hasGivenUp = false

  constructor (options: PendingEndsOptions) {
    this.#options = options
  }

  /** Resolves to the number of `claims` that are gone: when all are gone, or after the timeout with a warning. */
  async wait (bucket: Bucket, claims: readonly Asked[]): Promise<number> {
    if (claims.length === 0 || this.#hasGivenUp) return 0
    const { promise, resolve } = deferred<void>()
    let left = claims.length
    const settle = () => { if (--left === 0) resolve() }
    const isGone = ({ member, number }: Asked) => this.#early.has(idOf(member, number))
    const pending = claims.map(asked => this.#add({ asked, bucket, isUnheard: asked.receivers === 0, askAt: performance.now() + FIRST_ASK_MS, isGone: false, settle, stop: resolve }))
    for (const end of pending) if (isGone(end.asked)) this.settle(end)
    this.#asking ??= setInterval(() => afterReading(() => this.#askAgain()), TICK_MS).unref()
    if (!await within(promise, this.#options.timeout)) {
      const members = [...new Set(pending.filter(({ isGone }) => !isGone).map(({ asked }) => asked.member))]
      this.#options.log.warn({ members }, 'another process did not end a stream within replaceTimeout, so this process no longer waits for it. If that process is alive, its log names the route')
    }
    for (const end of pending) this.#delete(end)
    return pending.filter(({ isGone }) => isGone).length
  }

  onGone (member: string, number: number): void {
    const id = idOf(member, number)
    for (const end of this.#pending.get(id) ?? []) this.settle(end)
    // Even if somebody has waited: the next to wait for the claim may come after this message.
    this.#early.add(id)
    if (this.#early.size > EARLY) this.#early.delete(this.#early.values().next().value!)
  }

  settle (end: PendingEnd): void {
    if (end.isGone) return
    end.isGone = true
    end.settle()
  }

  /** Asks again at the next opportunity, because messages were lost. */
  askSoon (): void {
    for (const ends of this.#pending.values()) for (const end of ends) end.askAt = 0
  }

  /** Ends all waits, and asks no more. */
  giveUp (): void {
    this.#hasGivenUp = true
    clearInterval(this.#asking)
    for (const ends of this.#pending.values()) for (const end of ends) end.stop()
  }

  #add (end: PendingEnd): PendingEnd {
    const id = idOf(end.asked.member, end.asked.number)
    const ends = this.#pending.get(id)
    if (ends === undefined) this.#pending.set(id, new Set([end]))
    else ends.add(end)
    return end
  }

  #delete (end: PendingEnd): void {
    const id = idOf(end.asked.member, end.asked.number)
    const ends = this.#pending.get(id)
    if (ends?.delete(end) === true && ends.size === 0) this.#pending.delete(id)
  }

  #askAgain (): void {
    if (this.#pending.size === 0) {
      clearInterval(this.#asking)
      this.#asking = undefined
      return
    }
    const now = performance.now()
    const due = new Map<Bucket, PendingEnd[]>()
    for (const ends of this.#pending.values()) {
      for (const end of ends) {
        if (end.isGone || end.askAt > now || end.bucket.isAway) continue
        end.askAt = now + NEXT_ASK_MS
        const page = due.get(end.bucket)
        if (page === undefined) due.set(end.bucket, [end])
        else if (page.push(end) === PAGE) {
          this.#options.ask(end.bucket, page)
          due.delete(end.bucket)
        }
      }
    }
    for (const [bucket, page] of due) this.#options.ask(bucket, page)
  }
}

function idOf (member: string, number: number): string {
  return `${member} ${number}`
}
