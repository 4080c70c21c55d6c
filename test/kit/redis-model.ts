// The protocol's Lua scripts in TypeScript, for the simulation. A test compares this model with the Lua scripts in a real Redis.
import { formatMessage } from '../../lib/redis/protocol.ts'
import { CLAIM, COUNT, EVICT, RELEASE, RESTATE, type Script } from '../../lib/redis/scripts.ts'

interface Entry { token: number, number: number, expires: number, member: string, before?: Pick<Entry, 'member' | 'number'> | undefined }
type Args = Array<string | number>

export class RedisModel {
  readonly #scopes = new Map<string, { entries: Map<string, Entry>, expires: number }>()
  readonly #clock: () => number
  readonly #publish: (channel: string, message: string) => number

  /** `clock` returns microseconds. */
  constructor (clock: () => number, publish: (channel: string, message: string) => number) {
    this.#clock = clock
    this.#publish = publish
  }

  /** Forgets everything, like a Redis that restarts without persistence. */
  restart (): void {
    this.#scopes.clear()
  }

  run (script: Script, keys: string[], args: Args): unknown {
    if (script === CLAIM) return this.#claim(keys[0]!, args)
    if (script === RESTATE) return this.#restate(keys, args)
    if (script === RELEASE) return this.#release(keys, args)
    if (script === EVICT) return this.#evict(keys[0]!, args)
    if (script === COUNT) return [...this.#entries(keys[0]!).values()].filter(entry => entry.member !== args[0] && entry.expires >= this.#clock()).length
  }

  #entries (key: string): Map<string, Entry> {
    const scope = this.#scopes.get(key)
    if (scope !== undefined && scope.expires >= this.#clock()) return scope.entries
    this.#scopes.delete(key)
    return new Map()
  }

  #hold (key: string, field: string, token: number, number: number, lease: number, member: string): void {
    const expires = this.#clock() + lease * 1000
    const entries = this.#entries(key)
    this.#scopes.set(key, { entries: entries.set(field, { token, number, expires, member, before: entries.get(field)?.before }), expires })
  }

  #claim (key: string, [field, member, number, lease, channels, at, tolerance]: any[]): unknown {
    const now = this.#clock()
    const heldUp = at > 0 && now - at > tolerance
    let token = heldUp ? at : now
    const previous = this.#entries(key).get(field)
    if (previous !== undefined) {
      if (previous.member === member && previous.number > number) return ['', String(now)]
      if (previous.token >= token) {
        if (heldUp && previous.member !== member) return ['', String(now)]
        token = previous.token + 1
      }
    }
    this.#hold(key, field, token, number, lease, member)
    if (previous === undefined || previous.member === member) return [String(token), String(now)]
    const tell = (other: Pick<Entry, 'member' | 'number'>) => (
      [other.member, String(other.number), this.#publish(channels + other.member, formatMessage({ type: 'end', reason: 'replaced', from: member, ackNumber: number, numbers: [other.number] }))] as const
    )
    const told = tell(previous)
    const result = [String(token), String(now), ...told, previous.expires < now ? 1 : 0]
    const entry = this.#entries(key).get(field)!
    if (told[2] > 0 || previous.before === undefined) {
      entry.before = previous
      return result
    }
    return previous.before.member === member ? result : [...result, ...tell(previous.before)]
  }

  #restate (keys: string[], [member, lease, channels, beat, ...claims]: any[]): unknown {
    const now = this.#clock()
    const result: unknown[] = [String(now), this.#publish(channels + member, `beat ${beat}`)]
    for (const key of new Set(keys)) {
      for (const [field, { expires }] of this.#entries(key)) if (expires < now) this.#entries(key).delete(field)
    }
    for (const [i, key] of keys.entries()) {
      const [field, number, token] = claims.slice(3 * i, 3 * i + 3)
      if (field === undefined) continue
      const other = this.#entries(key).get(field)
      if (other !== undefined && (other.member === member ? other.number > number : other.token >= token)) {
        result.push(i + 1)
        continue
      }
      this.#hold(key, field, token, number, lease, member)
      if (other !== undefined && other.member !== member) this.#publish(channels + other.member, formatMessage({ type: 'end', reason: 'replaced', from: member, ackNumber: 0, numbers: [other.number] }))
    }
    return result
  }

  #release (keys: string[], [member, ...claims]: any[]): void {
    for (const [i, key] of keys.entries()) {
      const [field, number] = claims.slice(2 * i, 2 * i + 2)
      const entry = this.#entries(key).get(field)
      if (entry?.member === member && entry!.number === number) this.#entries(key).delete(field)
    }
  }

  #evict (key: string, [member, number, channels, prefix, at, tolerance]: any[]): unknown {
    const heldUp = at > 0 && this.#clock() - at > tolerance
    const numbersOf = new Map<string, number[]>()
    for (const [field, entry] of this.#entries(key)) {
      if (heldUp && entry.token > at) continue
      if (field.startsWith(prefix) && entry.member !== member && entry.expires >= this.#clock()) {
        numbersOf.set(entry.member, [...numbersOf.get(entry.member) ?? [], entry.number])
      }
    }
    return [...numbersOf].flatMap(([other, numbers]) => [other, numbers.join(), this.#publish(channels + other, formatMessage({ type: 'end', reason: 'evicted', from: member, ackNumber: number, numbers }))])
  }
}
