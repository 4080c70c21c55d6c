// The protocol's Lua scripts in TypeScript, for the simulation. A test compares this model with the Lua scripts in a real Redis.
import { ASK, BEAT, CLAIM, COUNT, EVICT, LEAVE, MARK, PROBE, RELEASE, REPLY, REQUESTS, RESTATE, SEND, SWEEP, UNMARK, WATCH, type Script } from '../../lib/redis/scripts.ts'

type Reply = Array<string | number>

export class RedisModel {
  readonly #store: Store
  readonly #clock: () => number
  readonly #publish: (channel: string, message: string) => number

  /** `clock` returns microseconds. `publish` returns how many subscriptions receive the message. */
  constructor (clock: () => number, publish: (channel: string, message: string) => number) {
    this.#clock = clock
    this.#publish = publish
    this.#store = new Store(clock)
  }

  /** Forgets everything, like a Redis that restarts without persistence. */
  restart (): void {
    this.#store.clear()
  }

  /** Takes back the writes of the last `microseconds`, 30 s at most, like a failover to a replica that had not received the writes. */
  lose (microseconds: number): void {
    this.#store.lose(microseconds)
  }

  /** The command DEL. */
  delete (key: string): void {
    this.#store.del(key)
  }

  /** Every key with its fields and the rest of its life, in milliseconds. */
  dump (): Record<string, { readonly fields: Record<string, string>, readonly ttl: number }> {
    return this.#store.dump()
  }

  /** Returns the reply of Redis as ioredis returns the reply: strings and numbers, as the Lua script returns them. */
  run (script: Script, keys: string[], args: Array<string | number>): unknown {
    const call = new Call(this.#store, this.#publish, this.#clock(), keys, args.map(String))
    switch (script) {
      case CLAIM: return call.claim()
      case BEAT: return call.beat()
      case PROBE: return call.probe()
      case REQUESTS: return call.requests()
      case ASK: return call.ask()
      case RESTATE: return call.restate()
      case RELEASE: return call.release()
      case EVICT: return call.evict()
      case COUNT: return call.count()
      case SEND: return call.send()
      case REPLY: return call.reply()
      case MARK: return call.mark()
      case UNMARK: return call.unmark()
      case SWEEP: return call.sweep()
      case WATCH: return call.watch()
      case LEAVE: return call.leave()
      default: throw new Error('the model does not know this script')
    }
  }
}

interface ClaimOf { readonly member: string, readonly number: number }
interface Entry { token: number, number: number, member: string, before: ClaimOf[] }

// A call of a script. Each method reads like the Lua script with the same name, and the private methods like the functions that the scripts share.
class Call {
  readonly #store: Store
  readonly #publishTo: (channel: string, message: string) => number
  readonly #now: number
  readonly #keys: string[]
  readonly #args: string[]
  readonly #member: string
  readonly #channels: string
  readonly #records: string

  constructor (store: Store, publish: (channel: string, message: string) => number, now: number, keys: string[], args: string[]) {
    this.#store = store
    this.#publishTo = publish
    this.#now = now
    this.#keys = keys
    this.#args = args
    this.#member = args[0]!
    this.#channels = args[1]!
    this.#records = keys[0]!.slice(0, -this.#member.length)
  }

  claim (): Reply {
    const [key, [,, field, number, lease, recordLease]] = [this.#keys[1]!, this.#args] as [string, string[]]
    const countsFrom = this.#countsFrom(6)
    if (countsFrom === undefined) return ['late', integer(this.#now)]
    const ops = this.#countOperation(Number(recordLease))
    if (countsFrom < this.#now && this.#evictorOf(key, field!, countsFrom) !== undefined) return ['superseded', integer(this.#now), ops, 'evicted']
    const value = this.#store.hget(key, field!)
    const entry: Entry = { token: countsFrom, number: Number(number), member: this.#member, before: [] }
    const listed: Reply = []
    if (value !== undefined) {
      const previous = parseEntry(value)
      const isOwn = previous.member === this.#member
      const lives = !isOwn && this.#isAlive(previous.member)
      const hasNewer = previous.before.some(claim => claim.member === this.#member && claim.number >= entry.number)
      const isSuperseded = isOwn ? previous.number > entry.number : lives && countsFrom < this.#now && previous.token >= countsFrom
      if (hasNewer || isSuperseded) return ['superseded', integer(this.#now), ops, 'replaced']
      entry.token = Math.max(countsFrom, previous.token + 1)
      entry.before = this.#notGone(previous.before, this.#member)
      for (const claim of entry.before.filter(claim => claim.member !== previous.member)) {
        this.#request(claim, 'replaced', digestOf(key), field!)
        listed.push(claim.member, integer(claim.number), -1)
      }
      if (!isOwn) {
        const receivers = this.#askToEnd(previous, 'replaced', digestOf(key), field!)
        if (lives) {
          entry.before = [...this.#notGone(entry.before, previous.member), previous]
          listed.push(previous.member, integer(previous.number), receivers)
        }
      }
    }
    this.#storeEntry(key, field!, entry)
    this.#storeHolders(key, [...this.#holdersOf(key)], entry.number)
    this.#renew(key, Number(lease))
    return ['newest', integer(this.#now), ops, integer(entry.token), ...listed]
  }

  beat (): Reply {
    const [,, lease, deaf, beat, indexLease] = this.#args as [string, string, string, string, string, string]
    const result: Reply = [integer(this.#now), -1]
    const [records, index] = this.#recordsAndIndex(indexLease !== '')
    if (index !== undefined) {
      this.#store.hset(index, this.#member, '')
      this.#store.pexpire(index, Number(indexLease))
    }
    for (const record of records) {
      const ops = this.#store.hget(record, 'ops')
      this.#store.hset(record, 'deaf', deaf)
      this.#store.hset(record, 'ops', ops ?? '0')
      this.#store.pexpire(record, Number(lease))
      result.push(Number(ops ?? -1), this.#store.hgetall(record).length - 2)
    }
    if (beat !== '') result[1] = this.#publish(this.#member, `beat ${beat}`)
    return result
  }

  // The model refuses no command, so there is nothing to try.
  probe (): Reply {
    this.#publish(this.#member, `beat ${this.#args[2]!}`)
    return [integer(this.#now)]
  }

  requests (): Reply {
    const requests = this.#store.hgetall(this.#keys[0]!).filter(([, value]) => value.includes(' '))
    return ['0', ...requests.flatMap(([number, value]) => [number, ...value.split(' ').slice(0, 3)])]
  }

  ask (): Reply {
    const [,, ops, mayMiss] = this.#args as [string, string, string, string]
    if (Number(this.#store.hget(this.#keys[0]!, 'ops') ?? 0) < Number(ops)) return ['lost', integer(this.#now)]
    const result: Reply = ['asked', integer(this.#now)]
    for (let n = 1; 6 * n - 2 < this.#args.length; n++) {
      const [member, number, reason, digest, field, wasUnheard] = this.#args.slice(6 * n - 2, 6 * n + 4) as [string, string, string, string, string, string]
      const isPending = mayMiss === '1' || this.#store.hget(this.#records + member, number) !== undefined
      if (!isPending) continue
      const receivers = this.#askToEnd({ member, number: Number(number) }, reason, digest, field)
      const isDead = wasUnheard === '1' && receivers === 0 && mayMiss !== '1' && this.#store.hget(this.#records + member, 'deaf') !== '1'
      if (!isDead) result.push(n, receivers)
    }
    return result
  }

  restate (): Reply {
    const [,, lease, recordLease] = this.#args as [string, string, string, string]
    const result: Reply = [integer(this.#now), this.#countOperation(Number(recordLease))]
    for (const [i, key] of this.#keys.slice(1).entries()) {
      const [field, number, token] = [this.#args[3 * i + 4]!, Number(this.#args[3 * i + 5]), Number(this.#args[3 * i + 6])]
      const own = { member: this.#member, number }
      this.#storeHolders(key, [...this.#holdersOf(key)].filter(([member]) => member === this.#member || this.#isAlive(member)), number)
      const value = this.#store.hget(key, field)
      const present = value === undefined ? undefined : parseEntry(value)
      const entry = present !== undefined && (present.member === this.#member || this.#isAlive(present.member)) ? present : undefined
      const before = this.#notGone(present?.before ?? [], this.#member)
      const isOther = entry !== undefined && entry.member !== this.#member
      const isNewer = entry !== undefined && (isOther ? entry.token >= token : entry.number > number)
      const evictor = this.#evictorOf(key, field, token)
      const [reason, waiter] = evictor === undefined && isNewer ? ['replaced', entry.member] : ['evicted', evictor]
      if (waiter !== undefined) {
        result.push(i + 1, reason)
        if (this.#store.hget(this.#keys[0]!, integer(number)) === undefined) {
          this.#store.hset(this.#keys[0]!, integer(number), [reason, digestOf(key), field, waiter].join(' '))
        }
      }
      if (isOther && isNewer) {
        this.#storeEntry(key, field, { ...entry, before: [...before, own] })
      } else if (isOther || entry === undefined || entry.number < number) {
        if (isOther) {
          this.#askToEnd(entry, 'replaced', digestOf(key), field)
          before.push(entry)
        }
        this.#storeEntry(key, field, { token, ...own, before })
      }
      this.#renew(key, Number(lease))
    }
    const scope = this.#keys[1]
    for (const [field, value] of scope === undefined ? [] : this.#claimsOf(scope)) {
      const entry = parseEntry(value)
      if (!this.#isAlive(entry.member) && this.#notGone(entry.before).length === 0) this.#store.hdel(scope!, field)
    }
    return result
  }

  release (): null {
    const record = this.#keys[0]!
    for (const [i, key] of this.#keys.slice(1).entries()) {
      const [field, number, newest] = [this.#args[3 * i + 2]!, Number(this.#args[3 * i + 3]), Number(this.#args[3 * i + 4])]
      const waiters = new Set(this.#store.hget(record, integer(number))?.split(' ').slice(3))
      this.#store.hdel(record, integer(number))
      const value = this.#store.hget(key, field)
      const entry = value === undefined ? undefined : parseEntry(value)
      if (entry?.member === this.#member) {
        if (entry.number <= number) {
          const left = this.#notGone(entry.before, this.#member)
          const last = left.pop()
          if (last === undefined) this.#store.hdel(key, field)
          else this.#storeEntry(key, field, { ...last, token: entry.token, before: left })
        }
      } else if (entry !== undefined) {
        const before = entry.before.filter(claim => claim.member !== this.#member || claim.number > number)
        if (before.length < entry.before.length) {
          waiters.add(entry.member)
          this.#storeEntry(key, field, { ...entry, before })
        }
      }
      const holders = [...this.#holdersOf(key)]
      if (newest > 0) {
        const isListed = ([member, number]: [string, number]) => member === this.#member ? number > newest : this.#isAlive(member)
        this.#storeHolders(key, holders.filter(isListed))
      }
      for (const waiter of waiters) this.#publish(waiter, `gone ${this.#member} ${integer(number)}`)
    }
    return null
  }

  evict (): Reply {
    const [key, [,, cursor, prefix, recordLease, markLife]] = [this.#keys[1]!, this.#args] as [string, [string, string, string, string, string, string]]
    const token = this.#countsFrom(6)
    if (token === undefined) return ['late', integer(this.#now)]
    const ops = this.#countOperation(Number(recordLease))
    if (cursor === '0') {
      const mark = this.#store.hget(`${key}:evicted`, prefix)
      if (mark === undefined || parseInt(mark) < token) this.#store.hset(`${key}:evicted`, prefix, `${integer(token)} ${this.#member}`)
      this.#store.pexpire(`${key}:evicted`, Number(markLife))
    }
    const asked: Array<ClaimOf & { readonly field: string }> = []
    const words = new Map<string, string[]>()
    for (const [field, value] of this.#claimsOf(key)) {
      const entry = parseEntry(value)
      if (!field.startsWith(prefix)) continue
      const claims: ClaimOf[] = this.#notGone(entry.before, this.#member)
      if (claims.length === 0 && !this.#isAlive(entry.member)) this.#store.hdel(key, field)
      if (entry.token <= token && entry.member !== this.#member && this.#isAlive(entry.member)) claims.push(entry)
      for (const { member, number } of claims) {
        this.#request({ member, number }, 'evicted', digestOf(key), field)
        words.set(member, [...words.get(member) ?? ['end', 'evicted', digestOf(key)], field, integer(number)])
        asked.push({ member, number, field })
      }
    }
    const receivers = new Map([...words].map(([member, list]) => [member, this.#publish(member, list.join(' '))]))
    return ['evicted', integer(this.#now), ops, integer(token), '0', ...asked.flatMap(({ member, number, field }) => [member, integer(number), field, receivers.get(member)!])]
  }

  count (): Reply {
    const counts = (owner: string) => owner !== this.#member && this.#isAlive(owner)
    const counted = this.#claimsOf(this.#keys[1]!).filter(([, value]) => counts(parseEntry(value).member))
    return ['0', ...counted.map(([field]) => field)]
  }

  send (): Reply {
    const base = this.#records.slice(0, -'member:'.length)
    const allMembers = () => {
      const members = this.#store.hgetall(`${base}members`).map(([member]) => member)
      for (const member of members) if (member !== this.#member && !this.#isAlive(member)) this.#store.hdel(`${base}members`, member)
      return members
    }
    const result: Reply = []
    for (let n = 1; 2 * n < this.#args.length; n++) {
      const [digest, message] = this.#args.slice(2 * n, 2 * n + 2) as [string, string]
      const members = digest === '' ? allMembers() : [...this.#holdersOf(base + digest.slice(1)).keys()]
      for (const member of members.filter(member => member !== this.#member && this.#isAlive(member))) result.push(n, member, this.#publish(member, message))
    }
    return result
  }

  reply (): null {
    this.#publish(this.#args[2]!, this.#args[3]!)
    return null
  }

  mark (): Reply {
    const [,,, ...pairs] = this.#args
    const result = Array.from({ length: pairs.length / 2 }, (_, i) => {
      const mark = this.#store.hget(this.#keys[1]!, pairs[2 * i]!)
      this.#store.hset(this.#keys[1]!, pairs[2 * i]!, `${[...this.#othersOnline(mark), this.#member].join(' ')}\n${pairs[2 * i + 1]}`)
      return Number(mark === undefined)
    })
    this.#store.pexpire(this.#keys[1]!, Number(this.#args[2]))
    return result
  }

  unmark (): number {
    const [, marks, scope] = this.#keys as [string, string, string]
    const digest = this.#args[2]!
    const mark = this.#store.hget(marks, digest)
    if (mark === undefined) return -1
    const others = this.#othersOnline(mark)
    if (others.length === 0 && !this.#isHeld(scope)) this.#store.hdel(marks, digest)
    else this.#store.hset(marks, digest, others.join(' ') + mark.slice(mark.indexOf('\n')))
    return Number(this.#store.hget(marks, digest) === undefined)
  }

  sweep (): Reply {
    const marks = this.#keys[1]!
    const base = marks.slice(0, -'online'.length)
    const removed = this.#store.hgetall(marks).filter(([digest, mark]) => {
      const isOnline = mark.split('\n')[0]!.includes(this.#member) || this.#othersOnline(mark).length > 0
      return !isOnline && !this.#isHeld(base + digest.slice(1))
    })
    for (const [digest] of removed) this.#store.hdel(marks, digest)
    return ['0', ...removed.map(([, mark]) => mark.slice(mark.indexOf('\n') + 1))]
  }

  watch (): Reply {
    const [, watchers] = this.#keys as [string, string]
    for (const member of this.#args.slice(3)) this.#store.hdel(watchers, member)
    this.#store.hset(watchers, this.#member, '1')
    this.#store.pexpire(watchers, Number(this.#args[2]))
    return this.#store.hgetall(watchers).map(([member]) => member).filter(member => member !== this.#member && !this.#isAlive(member))
  }

  #isHeld (key: string): boolean {
    return [...this.#holdersOf(key).keys()].some(member => this.#isAlive(member))
  }

  #othersOnline (mark = ''): string[] {
    return mark.split('\n')[0]!.split(' ').filter(member => member !== '' && member !== this.#member && this.#isAlive(member))
  }

  leave (): null {
    const [records, index] = this.#recordsAndIndex(this.#args[2] === '1')
    if (index !== undefined) this.#store.hdel(index, this.#member)
    for (const record of records) this.#store.del(record)
    return null
  }

  #recordsAndIndex (hasIndex: boolean): [string[], string | undefined] {
    return hasIndex ? [this.#keys.slice(0, -1), this.#keys.at(-1)] : [this.#keys, undefined]
  }

  // The members with claims in a scope, and the numbers of their newest claims.
  #holdersOf (key: string): Map<string, number> {
    return new Map(inPairs(this.#store.hget(key, '@') ?? ''))
  }

  // Stores the members with claims in a scope, and the caller with the claim `number`.
  #storeHolders (key: string, holders: Array<[string, number]>, number?: number): void {
    const own = holders.find(([member]) => member === this.#member)
    const others = holders.filter(([member]) => member !== this.#member)
    const list = number === undefined ? holders : [...others, [this.#member, Math.max(number, own?.[1] ?? 0)] as const]
    const text = list.map(([member, number]) => `${member} ${integer(number)}`).join(' ')
    if (text === '') this.#store.hdel(key, '@')
    else if (text !== this.#store.hget(key, '@')) this.#store.hset(key, '@', text)
  }

  #claimsOf (key: string): Array<[string, string]> {
    return this.#store.hgetall(key).filter(([field]) => field !== '@')
  }

  // `undefined` if the script runs too late. `index` is where the arguments begin that say when the claim or the eviction was made.
  #countsFrom (index: number): number | undefined {
    const [madeAt, tolerance] = [Number(this.#args[index]), Number(this.#args[index + 1])]
    if (madeAt > 0 && tolerance >= 0 && this.#now - madeAt > tolerance) return undefined
    return madeAt > 0 && tolerance < 0 ? madeAt : this.#now
  }

  #isAlive (member: string): boolean {
    return this.#store.exists(this.#records + member)
  }

  #publish (member: string, message: string): number {
    return this.#publishTo(this.#channels + member, message)
  }

  #countOperation (lease: number): number {
    const ops = Number(this.#store.hget(this.#keys[0]!, 'ops') ?? 0) + 1
    this.#store.hset(this.#keys[0]!, 'ops', integer(ops))
    this.#renew(this.#keys[0]!, lease)
    return ops
  }

  #storeEntry (key: string, field: string, { token, number, member, before }: Entry): void {
    this.#store.hset(key, field, [integer(token), integer(number), member, ...before.flatMap(claim => [claim.member, integer(claim.number)])].join(' '))
  }

  #renew (key: string, lease: number): void {
    if (this.#store.pttl(key) < lease * 0.75) this.#store.pexpire(key, lease)
  }

  #request ({ member, number }: ClaimOf, reason: string, digest: string, field: string): void {
    const record = this.#records + member
    const present = this.#store.hget(record, integer(number))
    if (present === undefined) this.#store.hset(record, integer(number), [reason, digest, field, this.#member].join(' '))
    else if (!present.includes(` ${this.#member}`)) this.#store.hset(record, integer(number), `${present} ${this.#member}`)
  }

  #askToEnd (claim: ClaimOf, reason: string, digest: string, field: string): number {
    if (this.#isAlive(claim.member)) this.#request(claim, reason, digest, field)
    return this.#publish(claim.member, ['end', reason, digest, field, integer(claim.number)].join(' '))
  }

  #notGone (before: readonly ClaimOf[], except?: string): ClaimOf[] {
    return before.filter(({ member }) => member !== except && this.#isAlive(member))
  }

  #evictorOf (key: string, field: string, token: number): string | undefined {
    const marks = ['', /^[^:]*:/.exec(field)![0]].map(prefix => this.#store.hget(`${key}:evicted`, prefix)?.split(' '))
    return marks.find(mark => mark !== undefined && token <= Number(mark[0]))?.[1]
  }
}

function integer (number: number): string {
  return number.toFixed(0)
}

function digestOf (key: string): string {
  return /\{([\da-f])\}:([\da-f]+)$/.exec(key)!.slice(1).join('')
}

function inPairs (text: string): Array<[string, number]> {
  return [...text.matchAll(/(\S+) (\d+)/g)].map(([, member, number]) => [member!, Number(number)])
}

function parseEntry (value: string): Entry {
  const [token, number, member, ...rest] = value.split(' ') as [string, string, string, ...string[]]
  const before = Array.from({ length: rest.length / 2 }, (_, i) => ({ member: rest[2 * i]!, number: Number(rest[2 * i + 1]) }))
  return { token: Number(token), number: Number(number), member, before }
}

// How far `lose` can go back. Unit: microseconds.
const JOURNAL_SPAN = 30_000_000

/** `expires` is a time in milliseconds. */
interface Hash { readonly fields: Map<string, string>, expires: number }

// Hashes that expire, and a journal of how to take back each write.
class Store {
  readonly #clock: () => number
  readonly #hashes = new Map<string, Hash>()
  #journal: Array<{ readonly at: number, readonly undo: () => void }> = []

  constructor (clock: () => number) {
    this.#clock = clock
  }

  clear (): void {
    this.#hashes.clear()
    this.#journal = []
  }

  lose (microseconds: number): void {
    const since = this.#clock() - microseconds
    while (this.#journal.length > 0 && this.#journal.at(-1)!.at > since) this.#journal.pop()!.undo()
  }

  dump (): Record<string, { readonly fields: Record<string, string>, readonly ttl: number }> {
    const keys = [...this.#hashes.keys()].filter(key => this.exists(key))
    return Object.fromEntries(keys.map(key => [key, { fields: Object.fromEntries(this.hgetall(key)), ttl: this.pttl(key) }]))
  }

  exists (key: string): boolean {
    return this.#find(key) !== undefined
  }

  hget (key: string, field: string): string | undefined {
    return this.#find(key)?.fields.get(field)
  }

  hgetall (key: string): Array<[string, string]> {
    return [...this.#find(key)?.fields ?? []]
  }

  hset (key: string, field: string, value: string): void {
    const found = this.#find(key)
    const hash = found ?? { fields: new Map(), expires: Infinity }
    const previous = hash.fields.get(field)
    hash.fields.set(field, value)
    if (found === undefined) this.#hashes.set(key, hash)
    this.#note(() => {
      if (previous === undefined) hash.fields.delete(field)
      else hash.fields.set(field, previous)
      if (hash.fields.size === 0) this.#hashes.delete(key)
    })
  }

  hdel (key: string, field: string): void {
    const hash = this.#find(key)
    const previous = hash?.fields.get(field)
    if (hash === undefined || previous === undefined) return
    hash.fields.delete(field)
    if (hash.fields.size === 0) this.#hashes.delete(key)
    this.#note(() => {
      hash.fields.set(field, previous)
      this.#hashes.set(key, hash)
    })
  }

  del (key: string): void {
    const hash = this.#find(key)
    if (hash === undefined) return
    this.#hashes.delete(key)
    this.#note(() => this.#hashes.set(key, hash))
  }

  pexpire (key: string, milliseconds: number): void {
    const hash = this.#find(key)
    if (hash === undefined) return
    const previous = hash.expires
    hash.expires = this.#milliseconds() + milliseconds
    this.#note(() => { hash.expires = previous })
  }

  /** -1 if the key does not expire, -2 if the key does not exist. */
  pttl (key: string): number {
    const hash = this.#find(key)
    if (hash === undefined) return -2
    return hash.expires === Infinity ? -1 : hash.expires - this.#milliseconds()
  }

  #milliseconds (): number {
    return Math.floor(this.#clock() / 1000)
  }

  #find (key: string): Hash | undefined {
    const hash = this.#hashes.get(key)
    if (hash === undefined || hash.expires >= this.#milliseconds()) return hash
    this.#hashes.delete(key)
    return undefined
  }

  #note (undo: () => void): void {
    const at = this.#clock()
    this.#journal.push({ at, undo })
    // Seldom, because each time costs as much as the journal is long.
    if (this.#journal.length % 10_000 === 0) this.#journal = this.#journal.filter(write => write.at > at - JOURNAL_SPAN)
  }
}
