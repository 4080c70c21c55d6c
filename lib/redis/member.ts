// One process's membership: claims, restates and releases what it streams, ends what others replace, and waits for theirs.
import { randomBytes } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import { afterReading, deferred, within } from '../wait.ts'
import { Answers } from './answers.ts'
import { chunks, Entries, type Entry } from './entries.ts'
import type { Link } from './link.ts'
import { BUCKETS, channelPrefix, scopeName, tabName } from './names.ts'
import { Presence } from './presence.ts'
import { CLAIM, COUNT, EVICT, RELEASE, RESTATE } from './scripts.ts'
import type { Cluster, ClusterClaim } from '../../types/index.ts'

export interface MemberOptions {
  readonly prefix: string
  readonly lease: number
  readonly replaceTimeout: number
  readonly log: FastifyBaseLogger
}

/** A holder that was told to end: its member, its number, who heard it. */
type Told = [member: string, number: string, heard: number]
type ClaimReply = [token: string, now: string, member?: string, number?: string, heard?: number, expired?: 0 | 1, ...before: Told | []]

/** How late a claim or an eviction may reach Redis before it counts from when it was made. */
const HELD_UP_MS = 1_000

export class Member implements Cluster {
  readonly id = randomBytes(12).toString('base64url')
  readonly channel: string
  readonly #options: MemberOptions
  readonly #channels: string
  readonly #link: Link
  readonly #redis: Presence
  readonly #answers: Answers
  readonly #entries: Entries
  /** How long Redis may take to answer before the member goes on without it. Unit: milliseconds. */
  readonly #patience: number
  #released: Entry[] = []
  #lastNumber = 0
  #nextBucket = 0
  #beats = 0
  #unheardSince: number | undefined
  readonly #joined = deferred<void>()
  readonly #restating: NodeJS.Timeout

  constructor (options: MemberOptions, connect: (member: Member) => Link) {
    const { prefix, lease, replaceTimeout, log } = options
    this.#options = options
    this.#channels = channelPrefix(prefix)
    this.channel = this.#channels + this.id
    this.#patience = Math.min(2_500, replaceTimeout / 2)
    this.#entries = new Entries(prefix, this.id)
    this.#link = connect(this)
    this.#answers = new Answers(this.#link, replaceTimeout, log)
    const beat = async (keys: string[]) => timeOf(await this.#link.run(RESTATE, keys, this.#beatArgs()))
    this.#redis = new Presence(this.#link, { patience: this.#patience, log, beat, back: () => this.#restateAll() })
    // Each claim twice a lease, a bucket at a time: that many commands, however many streams.
    this.#restating = setInterval(() => afterReading(() => this.#beat()), lease / 2 / BUCKETS).unref()
  }

  claim (claim: ClusterClaim): Promise<unknown> | undefined {
    const entry = this.#entries.add(claim, ++this.#lastNumber, this.#redis.now)
    if (!this.#redis.reachable) return undefined
    entry.sent = entry.claiming = true
    const { lease } = this.#options
    const done = () => { entry.claiming = false }
    return this.#redis.ask(CLAIM, [entry.scope], [entry.field, this.id, entry.number, lease, this.#channels, ...this.#madeAt(entry.token)], (reply, askedAt) => {
      // Overtaken by a claim of this process, before Redis saw it: sent now it would pass for the newer one.
      if (reply === undefined) return
      const [token, now, other, otherNumber, heard, expired, ...before] = reply as ClaimReply
      this.#redis.learnTime(Number(now), askedAt)
      if (token === '') return this.#lose(entry)
      entry.token = Number(token)
      if (other === undefined || expired === 1) return
      const told = [[other, otherNumber!, heard!], ...before.length === 0 ? [] : [before]] as Told[]
      return Promise.all(told.map(([member, number, heard]) => (
        this.#answers.of({ member, number: entry.number, heard, channel: this.#channels + member, message: `end replaced ${this.id} ${entry.number} ${number}` })
      )))
    }, { stillWanted: () => this.#entries.isNewest(entry), done })
  }

  release (claim: ClusterClaim): void {
    const entry = this.#entries.delete(claim)
    if (entry === undefined || !entry.sent) return
    // Those of one turn go together, as all do at a shutdown.
    if (this.#released.push(entry) === 1) setImmediate(() => this.#sendReleased())
  }

  async evict (scope: string, tabId?: string): Promise<number> {
    if (!this.#redis.reachable) return 0
    const number = ++this.#lastNumber
    const { name } = scopeName(this.#options.prefix, scope)
    let count = 0
    const all: unknown[] = []
    await this.#redis.ask(EVICT, [name], [this.id, number, this.#channels, tabId === undefined ? '' : tabName(tabId), ...this.#madeAt(this.#redis.now)], reply => {
      const told = reply as Array<string | number>
      for (let i = 0; i < told.length; i += 3) {
        const [member, numbers, heard] = told.slice(i, i + 3) as [string, string, number]
        count += numbers.split(',').length
        all.push(this.#answers.of({ member, number, heard, channel: this.#channels + member, message: `end evicted ${this.id} ${number} ${numbers}` }))
      }
      return Promise.all(all)
    })
    return count
  }

  async count (scope: string): Promise<number> {
    if (!this.#redis.reachable) return 0
    let count = 0
    await this.#redis.ask(COUNT, [scopeName(this.#options.prefix, scope).name], [this.id], reply => { count = reply as number })
    return count
  }

  async leave (): Promise<void> {
    clearInterval(this.#restating)
    this.#redis.leave()
    this.#released.push(...this.#entries.newest().filter(entry => entry.sent))
    this.#entries.clear()
    await this.#sendReleased()
    this.#answers.giveUp()
    this.#link.close()
  }

  /** Resolves when the link sends and hears; or after a while, without it: the application starts, and it is warned. */
  async joined (): Promise<void> {
    if (!await within(this.#joined.promise, this.#patience)) return this.#redis.goAway(new Error(`no connection within ${this.#patience} ms`))
    // To know Redis's clock before the first claim: one that is held up counts from when it was made.
    await this.#redis.ask(RESTATE, [], this.#beatArgs(), (reply, askedAt) => this.#redis.learnTime(timeOf(reply), askedAt))
  }

  /** The link's word that a message came by this member's channel. */
  heard (message: string): void {
    this.#unheardSince = undefined
    const [what, ...words] = message.split(' ')
    if (what === 'end') this.#endFor(words as [ 'replaced' | 'evicted', string, string, string])
    else if (what === 'gone') this.#answers.answered(words[0]!, Number(words[1]))
  }

  /** The link's word that it sends or hears again: messages may have been lost meanwhile. */
  returned (): void {
    if (this.#link.sends && this.#link.hears) this.#joined.resolve()
    if (this.#redis.away) this.#redis.probe()
    else this.#restateAll()
  }

  async #endFor ([reason, from, answer, numbers]: ['replaced' | 'evicted', string, string, string]): Promise<void> {
    const entries = numbers.split(',').map(number => this.#entries.byNumber(Number(number))).filter(entry => entry !== undefined)
    for (const entry of entries) {
      if (reason === 'replaced') this.#entries.supersede(entry)
      entry.claim.end(reason)
    }
    if (answer === '0') return
    await Promise.all(entries.map(({ claim }) => claim.released))
    // Who waits for it asks again.
    this.#link.publish(this.#channels + from, `gone ${this.id} ${answer}`).catch(() => {})
  }

  #lose (entry: Entry): void {
    this.#entries.supersede(entry)
    entry.claim.end('replaced')
  }

  async #sendReleased (): Promise<void> {
    if (this.#released.length === 0 || !this.#redis.reachable) return
    const released = this.#released
    this.#released = []
    await Promise.all(chunks(released).map(async chunk => {
      const answered = await this.#redis.ask(RELEASE, chunk.map(({ scope }) => scope), [this.id, ...chunk.flatMap(({ field, number }) => [field, number])], () => {})
      if (!answered) this.#released.push(...chunk)
    }))
  }

  #beat (): void {
    if (this.#redis.away) return
    const entries = this.#entries.newest(this.#nextBucket)
    this.#nextBucket = (this.#nextBucket + 1) % BUCKETS
    if (entries.length === 0 || !this.#redis.reachable) return
    if (this.#unheardSince !== undefined && this.#link.hears && performance.now() - this.#unheardSince > this.#patience) {
      this.#unheardSince = undefined
      this.#answers.giveUp()
      this.#link.resubscribe()
    }
    this.#restate(entries)
  }

  #restateAll (): void {
    this.#restate(this.#entries.newest())
    this.#sendReleased()
  }

  #restate (entries: Entry[]): void {
    for (const chunk of chunks(entries.filter(({ claiming }) => !claiming))) {
      for (const entry of chunk) entry.sent = true
      this.#unheardSince ??= performance.now()
      const args = [...this.#beatArgs(), ...chunk.flatMap(({ field, number, token }) => [field, number, token])]
      this.#redis.ask(RESTATE, chunk.map(({ scope }) => scope), args, (reply, askedAt) => {
        this.#redis.learnTime(timeOf(reply), askedAt)
        const [, , ...lost] = reply as [string, number, ...number[]]
        for (const place of lost) this.#lose(chunk[place - 1]!)
      })
    }
  }

  /** When something was made, for Redis to compare with its clock, or 0 as long as that is not known; and how late it may be. */
  #madeAt (time: number): [at: number, tolerance: number] {
    return [this.#redis.knowsTime ? time : 0, Math.min(HELD_UP_MS, this.#patience) * 1000]
  }

  #beatArgs (): Array<string | number> {
    return [this.id, this.#options.lease, this.#channels, ++this.#beats]
  }
}

/** What RESTATE's reply begins with. Unit: microseconds. */
function timeOf (reply: unknown): number {
  return Number((reply as string[])[0])
}
