// One process's membership: claims, restates and releases what it streams, ends what others replace, and waits for theirs.
import { randomBytes } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import { reportCluster } from '../diagnostics.ts'
import { deferred, within } from '../wait.ts'
import { Answers } from './answers.ts'
import { BUCKETS, channelPrefix, fieldName, scopeName, tabName } from './names.ts'
import { CLAIM, COUNT, EVICT, RELEASE, RESTATE, type Script } from './scripts.ts'
import type { Cluster, ClusterClaim } from '../../types/index.ts'

/** What a member needs of Redis. */
export interface Link {
  /** Whether a command that is sent now has a connection to go by. */
  readonly sends: boolean
  /** Whether the member's channel is subscribed to, as far as is known. */
  readonly hears: boolean
  /** Whether PUBLISH returns how many heard it: in a Redis Cluster it counts those on one node alone. */
  readonly countsHearers: boolean
  /** `stillWanted` is asked where the script has to be sent again, behind what was sent in the meantime. */
  run (script: Script, keys: string[], args: Array<string | number>, stillWanted?: () => boolean): Promise<unknown>
  publish (channel: string, message: string): Promise<number>
  /** Subscribes on a new connection: this one is deaf. */
  resubscribe (): void
  close (): void
}

export interface MemberOptions {
  readonly prefix: string
  readonly lease: number
  readonly replaceTimeout: number
  readonly log: FastifyBaseLogger
}

interface Entry {
  readonly claim: ClusterClaim
  readonly number: number
  readonly scope: string
  readonly field: string
  readonly bucket: Map<string, Entry>
  /** Orders it among the claims on its key: by its member's own clock until Redis has said. */
  token: number
  /** Whether Redis may know it. */
  sent: boolean
  /** Whether its claim is under way: stated again meanwhile it could lose to a claim that it is about to replace. */
  claiming: boolean
}

interface AskOptions {
  stillWanted?: () => boolean
  /** Called when there is a reply, or never will be one. */
  done?: () => void
}

/** How many claims one RESTATE takes: some milliseconds of Redis's time. */
const CHUNK = 1_000
/** How late a claim may reach Redis before it counts from when it was made. */
const HELD_UP_MS = 1_000
const PROBE_MS = 500

export class Member implements Cluster {
  readonly id = randomBytes(12).toString('base64url')
  readonly channel: string
  readonly #options: MemberOptions
  readonly #channels: string
  readonly #link: Link
  readonly #answers: Answers
  /** How long Redis may take to answer before the member goes on without it. Unit: milliseconds. */
  readonly #patience: number
  // By number: all that are not gone. By bucket, scope and field: the newest of each key.
  readonly #entries = new Map<number, Entry>()
  readonly #numbers = new Map<ClusterClaim, number>()
  readonly #buckets = Array.from({ length: BUCKETS }, () => new Map<string, Entry>())
  #released: Entry[] = []
  #lastNumber = 0
  #nextBucket = 0
  #beats = 0
  #unheardSince: number | undefined
  // What Redis's clock is ahead of ours. Unit: microseconds.
  #offset: number | undefined
  #away = false
  // A key of the node that did not answer: of a Redis Cluster the others may.
  #unanswered: string[] = []
  #probing = false
  readonly #joined = deferred<void>()
  readonly #restating: NodeJS.Timeout
  #probes: NodeJS.Timeout | undefined

  constructor (options: MemberOptions, connect: (member: Member) => Link) {
    this.#options = options
    this.#channels = channelPrefix(options.prefix)
    this.channel = this.#channels + this.id
    this.#patience = Math.min(2_500, options.replaceTimeout / 2)
    this.#link = connect(this)
    this.#answers = new Answers(this.#link, options.replaceTimeout, options.log)
    // Each claim twice a lease, a bucket at a time: that many commands, however many streams.
    this.#restating = setInterval(() => this.#beat(), options.lease / 2 / BUCKETS).unref()
  }

  claim (claim: ClusterClaim): Promise<unknown> | undefined {
    const entry = this.#enter(claim)
    if (!this.#reachable()) return undefined
    entry.sent = entry.claiming = true
    const { lease } = this.#options
    const at = this.#offset === undefined ? 0 : entry.token
    const done = () => { entry.claiming = false }
    return this.#ask(CLAIM, [entry.scope], [entry.field, this.id, entry.number, lease, this.#channels, at, Math.min(HELD_UP_MS, this.#patience) * 1000], reply => {
      // Overtaken by a claim of this process, before Redis saw it: sent now it would pass for the newer one.
      if (reply === undefined) return
      const [token, now, other, otherNumber, heard, expired] = reply as [string, string, string?, string?, number?, number?]
      this.#learnTime(Number(now))
      if (token === '') return this.#lose(entry)
      entry.token = Number(token)
      if (other === undefined || expired === 1) return
      return this.#answers.of({ member: other, number: entry.number, heard: heard!, channel: this.#channels + other, message: `end replaced ${this.id} ${entry.number} ${otherNumber}` })
    }, { stillWanted: () => this.#isNewest(entry), done })
  }

  release (claim: ClusterClaim): void {
    const entry = this.#entries.get(this.#numbers.get(claim) ?? 0)
    if (entry === undefined) return
    this.#entries.delete(entry.number)
    this.#numbers.delete(claim)
    if (!this.#supersede(entry) || !entry.sent) return
    // Those of one turn go together, as all do at a shutdown.
    if (this.#released.push(entry) === 1) setImmediate(() => this.#sendReleased())
  }

  async evict (scope: string, tabId?: string): Promise<number> {
    if (!this.#reachable()) return 0
    const number = ++this.#lastNumber
    const { name } = scopeName(this.#options.prefix, scope)
    let count = 0
    const all: unknown[] = []
    await this.#ask(EVICT, [name], [this.id, number, this.#channels, tabId === undefined ? '' : tabName(tabId)], reply => {
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
    if (!this.#reachable()) return 0
    let count = 0
    await this.#ask(COUNT, [scopeName(this.#options.prefix, scope).name], [this.id], reply => { count = reply as number })
    return count
  }

  async leave (): Promise<void> {
    clearInterval(this.#restating)
    clearInterval(this.#probes)
    this.#released.push(...this.#newest().filter(entry => entry.sent))
    for (const bucket of this.#buckets) bucket.clear()
    this.#entries.clear()
    this.#numbers.clear()
    await this.#sendReleased()
    this.#answers.giveUp()
    this.#link.close()
  }

  /** Resolves when the link sends and hears; or after a while, without it: the application starts, and it is warned. */
  async joined (): Promise<void> {
    if (!await within(this.#joined.promise, this.#patience)) return this.#goAway(new Error(`no connection within ${this.#patience} ms`))
    // To know Redis's clock before the first claim: one that is held up counts from when it was made.
    await this.#ask(RESTATE, [], [this.id, this.#options.lease, this.#channels, ++this.#beats], reply => this.#learnTime(Number((reply as string[])[0])))
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
    if (this.#away) this.#probe()
    else this.#restateAll()
  }

  async #endFor ([reason, from, answer, numbers]: ['replaced' | 'evicted', string, string, string]): Promise<void> {
    const entries = numbers.split(',').map(number => this.#entries.get(Number(number))).filter(entry => entry !== undefined)
    for (const entry of entries) {
      if (reason === 'replaced') this.#supersede(entry)
      entry.claim.end(reason)
    }
    if (answer === '0') return
    await Promise.all(entries.map(({ claim }) => claim.gone))
    this.#link.publish(this.#channels + from, `gone ${this.id} ${answer}`).catch(ignore)
  }

  #enter (claim: ClusterClaim): Entry {
    const { name, bucket } = scopeName(this.#options.prefix, claim.key.scope)
    const number = ++this.#lastNumber
    const entry: Entry = { claim, number, scope: name, field: fieldName(claim.key, this.id, number), bucket: this.#buckets[bucket]!, token: this.#now(), sent: false, claiming: false }
    this.#entries.set(number, entry)
    this.#numbers.set(claim, number)
    entry.bucket.set(keyOf(entry), entry)
    return entry
  }

  /** Notes that `entry` is not, or no longer, the newest; returns whether it was. */
  #supersede (entry: Entry): boolean {
    return this.#isNewest(entry) && entry.bucket.delete(keyOf(entry))
  }

  #isNewest (entry: Entry): boolean {
    return entry.bucket.get(keyOf(entry)) === entry
  }

  #lose (entry: Entry): void {
    this.#supersede(entry)
    entry.claim.end('replaced')
  }

  #newest (): Entry[] {
    return this.#buckets.flatMap(bucket => [...bucket.values()])
  }

  async #sendReleased (): Promise<void> {
    if (this.#released.length === 0 || !this.#reachable()) return
    const released = this.#released
    this.#released = []
    await Promise.all(chunks(released).map(async chunk => {
      const answered = await this.#ask(RELEASE, chunk.map(({ scope }) => scope), [this.id, ...chunk.flatMap(({ field, number }) => [field, number])], () => {})
      if (!answered) this.#released.push(...chunk)
    }))
  }

  #beat (): void {
    if (this.#away) return
    const bucket = this.#buckets[this.#nextBucket]!
    this.#nextBucket = (this.#nextBucket + 1) % BUCKETS
    if (bucket.size === 0 || !this.#reachable()) return
    if (this.#unheardSince !== undefined && this.#link.hears && performance.now() - this.#unheardSince > this.#patience) {
      this.#unheardSince = undefined
      this.#answers.giveUp()
      this.#link.resubscribe()
    }
    this.#restate([...bucket.values()])
  }

  #restateAll (): void {
    this.#restate(this.#newest())
    this.#sendReleased()
  }

  #restate (entries: Entry[]): void {
    const { lease } = this.#options
    for (const chunk of chunks(entries.filter(({ claiming }) => !claiming))) {
      for (const entry of chunk) entry.sent = true
      this.#unheardSince ??= performance.now()
      const args = chunk.flatMap(({ field, number, token }) => [field, number, token])
      this.#ask(RESTATE, chunk.map(({ scope }) => scope), [this.id, lease, this.#channels, ++this.#beats, ...args], reply => {
        const [now, , ...lost] = reply as [string, number, ...number[]]
        this.#learnTime(Number(now))
        for (const place of lost) this.#lose(chunk[place - 1]!)
      })
    }
  }

  /** Runs `script`, and `use` with its reply, whenever that comes. Resolves to whether it came in time, and `use` is done. */
  async #ask (script: Script, keys: string[], args: Array<string | number>, use: (reply: unknown) => unknown, { stillWanted, done }: AskOptions = {}): Promise<boolean> {
    let used: unknown
    const replied = this.#link.run(script, keys, args, stillWanted).finally(done).then(reply => { used = use(reply) })
    try {
      if (!await within(replied, this.#patience)) throw new Error(`no answer within ${this.#patience} ms`)
    } catch (error) {
      replied.catch(ignore)
      this.#goAway(error as Error, keys)
      return false
    }
    await used
    return true
  }

  #reachable (): boolean {
    if (!this.#away && !this.#link.sends) this.#goAway(new Error('no connection'))
    return !this.#away
  }

  #goAway (err: Error, keys: string[] = []): void {
    if (this.#away) return
    this.#away = true
    this.#unanswered = keys.slice(0, 1)
    this.#probes = setInterval(() => this.#probe(), PROBE_MS).unref()
    this.#options.log.warn({ err }, 'Redis is away: streams still start, and are deduplicated within this process alone until it is back')
    reportCluster({ state: 'away' })
  }

  async #probe (): Promise<void> {
    // One that hangs answers when Redis does.
    if (this.#probing || !this.#link.sends) return
    this.#probing = true
    try {
      const [now] = await this.#link.run(RESTATE, this.#unanswered, [this.id, this.#options.lease, this.#channels, ++this.#beats]) as [string]
      this.#learnTime(Number(now))
      this.#comeBack()
    } catch {
      // The next one may succeed.
    } finally {
      this.#probing = false
    }
  }

  #comeBack (): void {
    if (!this.#away) return
    this.#away = false
    clearInterval(this.#probes)
    this.#options.log.info('Redis is back')
    reportCluster({ state: 'back' })
    this.#restateAll()
  }

  #now (): number {
    return Math.round((performance.timeOrigin + performance.now()) * 1000 + (this.#offset ?? 0))
  }

  #learnTime (now: number): void {
    this.#offset = (this.#offset ?? 0) + now - this.#now()
  }
}

// Said by the warning that Redis is away.
function ignore (): void {}

function keyOf ({ scope, field }: Entry): string {
  return `${scope} ${field}`
}

// Each of one bucket, for all keys of a script share a hash slot, and with those of one scope together.
function chunks (entries: Entry[]): Entry[][] {
  const sorted = [...entries].sort((a, b) => a.scope < b.scope ? -1 : a.scope > b.scope ? 1 : 0)
  const result: Entry[][] = []
  for (const entry of sorted) {
    const last = result.at(-1)
    if (last !== undefined && last.length < CHUNK && last[0]!.bucket === entry.bucket) last.push(entry)
    else result.push([entry])
  }
  return result
}
