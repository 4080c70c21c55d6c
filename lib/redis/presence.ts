// Whether Redis is there: runs the scripts, notices when no answer comes, asks until one does; and what time it is there.
import type { FastifyBaseLogger } from 'fastify'
import { reportCluster } from '../diagnostics.ts'
import { within } from '../wait.ts'
import type { Link } from './link.ts'
import type { Script } from './scripts.ts'

export interface PresenceOptions {
  /** How long Redis may take to answer before it counts as away. Unit: milliseconds. */
  readonly patience: number
  readonly log: FastifyBaseLogger
  /** Asks Redis, by the nodes of these keys, for its time. */
  readonly beat: (keys: string[]) => Promise<number>
  /** Called when Redis is back. */
  readonly back: () => void
}

export interface AskOptions {
  stillWanted?: () => boolean
  /** Called when there is a reply, or never will be one. */
  done?: () => void
}

const PROBE_MS = 500

export class Presence {
  readonly #link: Link
  readonly #options: PresenceOptions
  // What Redis's clock is ahead of ours. Unit: microseconds.
  #offset: number | undefined
  #away = false
  // A key of the node that did not answer: of a Redis Cluster the others may.
  #unanswered: string[] = []
  #probing = false
  #left = false
  #probes: NodeJS.Timeout | undefined

  constructor (link: Link, options: PresenceOptions) {
    this.#link = link
    this.#options = options
  }

  get away (): boolean {
    return this.#away
  }

  /** Whether a script that is sent now may be answered. */
  get reachable (): boolean {
    if (!this.#away && !this.#link.sends) this.goAway(new Error('no connection'))
    return !this.#away
  }

  /** Whether Redis has said what time it is. */
  get knowsTime (): boolean {
    return this.#offset !== undefined
  }

  /** Redis's time, as far as is known. Unit: microseconds. */
  get now (): number {
    return Math.round(ownTime() + (this.#offset ?? 0))
  }

  /**
   * Redis said `now` after it was asked, and before that was read: more no reply tells. A process that stood still before it read
   * one would else take its clock to be late by as much, and its next claim for an old one.
   */
  learnTime (now: number, askedAt: number): void {
    const [least, most] = [now - ownTime(), now - askedAt]
    this.#offset = Math.max(least, Math.min(this.#offset ?? most, most))
  }

  /** Runs `script`, and `use` with its reply, whenever that comes. Resolves to whether it came in time, and `use` is done. */
  async ask (script: Script, keys: string[], args: Array<string | number>, use: (reply: unknown, askedAt: number) => unknown, { stillWanted, done }: AskOptions = {}): Promise<boolean> {
    let used: unknown
    const askedAt = ownTime()
    const replied = this.#link.run(script, keys, args, stillWanted).finally(done).then(reply => { used = use(reply, askedAt) })
    try {
      if (!await within(replied, this.#options.patience)) throw new Error(`no answer within ${this.#options.patience} ms`)
    } catch (error) {
      // Said by the warning that Redis is away.
      replied.catch(() => {})
      this.goAway(error as Error, keys)
      return false
    }
    await used
    return true
  }

  goAway (err: Error, keys: string[] = []): void {
    if (this.#away) return
    this.#away = true
    if (this.#left) return
    this.#unanswered = keys.slice(0, 1)
    this.#probes = setInterval(() => this.probe(), PROBE_MS).unref()
    this.#options.log.warn({ err }, 'Redis is away: streams still start, and are deduplicated within this process alone until it is back')
    reportCluster({ state: 'away' })
  }

  /** Asks whether Redis is back. */
  async probe (): Promise<void> {
    // One that hangs answers when Redis does.
    if (this.#probing || !this.#link.sends) return
    this.#probing = true
    const askedAt = ownTime()
    try {
      this.learnTime(await this.#options.beat(this.#unanswered), askedAt)
      this.#comeBack()
    } catch {
      // The next one may succeed.
    } finally {
      this.#probing = false
    }
  }

  /** What is under way may still be answered, but nobody asks again, and nobody is told. */
  leave (): void {
    this.#left = true
    clearInterval(this.#probes)
  }

  #comeBack (): void {
    this.#away = false
    clearInterval(this.#probes)
    this.#options.log.info('Redis is back')
    reportCluster({ state: 'back' })
    this.#options.back()
  }
}

/** Unit: microseconds. */
function ownTime (): number {
  return (performance.timeOrigin + performance.now()) * 1000
}
