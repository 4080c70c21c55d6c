// What a member has claimed: found by claim, by number and by key, and laid in the batches that go to Redis.
import { BUCKETS, fieldName, scopeName } from './names.ts'
import type { ClusterClaim } from '../../types/index.ts'

export interface Entry {
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

/** How many claims one script takes: some milliseconds of Redis's time. */
const CHUNK = 1_000

export class Entries {
  readonly #prefix: string
  readonly #member: string
  // By number: all that are not gone. By bucket, scope and field: the newest of each key.
  readonly #entries = new Map<number, Entry>()
  readonly #numbers = new Map<ClusterClaim, number>()
  readonly #buckets = Array.from({ length: BUCKETS }, () => new Map<string, Entry>())

  constructor (prefix: string, member: string) {
    this.#prefix = prefix
    this.#member = member
  }

  /** Enters `claim` as the newest of its key. */
  add (claim: ClusterClaim, number: number, token: number): Entry {
    const { name, bucket } = scopeName(this.#prefix, claim.key.scope)
    const entry: Entry = { claim, number, scope: name, field: fieldName(claim.key, this.#member, number), bucket: this.#buckets[bucket]!, token, sent: false, claiming: false }
    this.#entries.set(number, entry)
    this.#numbers.set(claim, number)
    entry.bucket.set(keyOf(entry), entry)
    return entry
  }

  byNumber (number: number): Entry | undefined {
    return this.#entries.get(number)
  }

  /** Forgets `claim`, and returns its entry if that was the newest of its key. */
  delete (claim: ClusterClaim): Entry | undefined {
    const entry = this.#entries.get(this.#numbers.get(claim) ?? 0)
    if (entry === undefined) return undefined
    this.#entries.delete(entry.number)
    this.#numbers.delete(claim)
    return this.supersede(entry) ? entry : undefined
  }

  /** Notes that `entry` is not, or no longer, the newest of its key; returns whether it was. */
  supersede (entry: Entry): boolean {
    return this.isNewest(entry) && entry.bucket.delete(keyOf(entry))
  }

  isNewest (entry: Entry): boolean {
    return entry.bucket.get(keyOf(entry)) === entry
  }

  /** The newest of each key; `bucket` chooses those of one. */
  newest (bucket?: number): Entry[] {
    const buckets = bucket === undefined ? this.#buckets : [this.#buckets[bucket]!]
    return buckets.flatMap(entries => [...entries.values()])
  }

  clear (): void {
    this.#entries.clear()
    this.#numbers.clear()
    for (const bucket of this.#buckets) bucket.clear()
  }
}

/** Batches of one bucket each, for all keys of a script share a hash slot, and those of one scope together. */
export function chunks (entries: Entry[]): Entry[][] {
  const sorted = [...entries].sort((a, b) => a.scope < b.scope ? -1 : a.scope > b.scope ? 1 : 0)
  const result: Entry[][] = []
  for (const entry of sorted) {
    const last = result.at(-1)
    if (last !== undefined && last.length < CHUNK && last[0]!.bucket === entry.bucket) last.push(entry)
    else result.push([entry])
  }
  return result
}

function keyOf ({ scope, field }: Entry): string {
  return `${scope} ${field}`
}
