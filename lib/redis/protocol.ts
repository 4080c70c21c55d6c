// The protocol between the processes of a cluster: names in Redis, messages, and the input and output of every script.
// Messages and replies of the scripts are written in Lua in scripts.ts; a test compares both files in a real Redis.
import { hash } from 'node:crypto'
import { CLAIM, COUNT, EVICT, RELEASE, RESTATE, type Script } from './scripts.ts'
import type { StreamKey } from '../../types/index.ts'

// Names. Keys and fields contain digests of fixed length, so no choice of scope, tab id or name can imitate another key or field.

/**
 * How many hash slots a prefix uses in a Redis Cluster. The keys of a scope's bucket share a hash slot, because a script
 * may only touch keys of one slot: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags
 */
export const BUCKETS = 16

/** The key of a scope's hash, `<prefix>{<bucket>}:<digest>`, and the scope's bucket, from 0 to 15. */
export function locateScope (prefix: string, scope: string): { readonly redisKey: string, readonly bucket: number } {
  const digest = hash('sha256', scope)
  return { redisKey: `${prefix}{${digest[0]}}:${digest.slice(1, 40)}`, bucket: parseInt(digest[0]!, 16) }
}

/** The beginning of every field of a tab, `<digest>:`. */
export function fieldPrefix (tabId: string): string {
  return `${hash('sha256', tabId, 'base64url').slice(0, 22)}:`
}

/** The field of a stream key: `<digest>:` or `<digest>:<digest of the name>`. Without a tab id, a field for this claim alone: `-<member>:<number>`. */
export function fieldName ({ tabId, name }: StreamKey, member: string, number: number): string {
  if (tabId === undefined) return `-${member}:${number}`
  return name === undefined ? fieldPrefix(tabId) : fieldPrefix(tabId) + hash('sha256', name, 'base64url').slice(0, 22)
}

/** The beginning of every member's channel. The member's id follows. */
export function channelPrefix (prefix: string): string {
  return `${prefix}member:`
}

// Messages. A member publishes a message on the channel of the member that is addressed. Redis delivers a message at most once,
// so a message may be lost: https://redis.io/docs/latest/develop/pubsub/#delivery-semantics

/** Asks a member to end claims: `end <reason> <from> <ackNumber> <number>,<number>,...`. */
export interface EndMessage {
  readonly type: 'end'
  readonly reason: 'replaced' | 'evicted'
  /** The member that asks, and waits for the acknowledgement. */
  readonly from: string
  /** The number to acknowledge with, or 0 if `from` does not wait. */
  readonly ackNumber: number
  /** The claims to end. */
  readonly numbers: readonly number[]
}

/** Acknowledges an {@link EndMessage} when the claims are gone: `gone <from> <ackNumber>`. */
export interface GoneMessage {
  readonly type: 'gone'
  /** The member whose claims are gone. */
  readonly from: string
  readonly ackNumber: number
}

/** Proves to a member that the subscription works, as every message does: `beat <number>`. Only RESTATE sends beats. */
export interface BeatMessage {
  readonly type: 'beat'
}

export type Message = EndMessage | GoneMessage | BeatMessage

export function formatMessage (message: EndMessage | GoneMessage): string {
  const { from, ackNumber } = message
  return message.type === 'end' ? `end ${message.reason} ${from} ${ackNumber} ${message.numbers.join(',')}` : `gone ${from} ${ackNumber}`
}

export function parseMessage (text: string): Message {
  const words = text.split(' ')
  switch (words[0]) {
    case 'end': return { type: 'end', reason: words[1] as EndMessage['reason'], from: words[2]!, ackNumber: Number(words[3]), numbers: parseNumbers(words[4]!) }
    case 'gone': return { type: 'gone', from: words[1]!, ackNumber: Number(words[2]) }
    default: return { type: 'beat' }
  }
}

function parseNumbers (list: string): number[] {
  return list.split(',').map(Number)
}

// Scripts. A command is one call of a script; `parse` turns the output of the script into `Reply`.

export interface Command<Reply> {
  readonly script: Script
  readonly keys: string[]
  readonly args: Array<string | number>
  readonly parse: (output: unknown) => Reply
}

/** The member that sends a command. */
export interface Sender {
  readonly id: string
  readonly channels: string
  /** Unit: milliseconds. */
  readonly lease: number
}

/** Where Redis stores a claim, and which claim of its member the entry stands for. */
export interface Place {
  readonly redisKey: string
  readonly field: string
  /** Counts the claims of a member, from 1. */
  readonly number: number
}

/** When a claim or an eviction was made. If Redis runs the script late, the claim or eviction counts from `at`. */
export interface Timing {
  /** Unit: microseconds of Redis's clock. 0 if the member does not know that clock yet. */
  readonly at: number
  /** How much later than `at` the script may run and still count from the present. Unit: microseconds. */
  readonly tolerance: number
}

/** A member that a script asked to end claims. */
export interface Notified {
  readonly member: string
  readonly numbers: readonly number[]
  /** How many subscriptions received the message, as PUBLISH returned. */
  readonly receivers: number
}

export type ClaimReply =
  /** The claim was late, or the process had already made a newer claim: Redis does not hold the claim. */
  | { readonly outcome: 'superseded', readonly now: number }
  /** The claim is the newest. `predecessors` must be gone before the stream starts; the list is empty if their lease is over. */
  | { readonly outcome: 'newest', readonly now: number, readonly token: number, readonly predecessors: Notified[] }

export function claimCommand ({ id, lease, channels }: Sender, { redisKey, field, number }: Place, { at, tolerance }: Timing): Command<ClaimReply> {
  return { script: CLAIM, keys: [redisKey], args: [field, id, number, lease, channels, at, tolerance], parse: parseClaimOutput }
}

function parseClaimOutput (output: unknown): ClaimReply {
  const [token, now, member, number, receivers, expired, ...before] = output as [string, string, string?, string?, number?, (0 | 1)?, ...Array<string | number>]
  if (token === '') return { outcome: 'superseded', now: Number(now) }
  const predecessors = member === undefined || expired === 1 ? [] : parseNotified([member, number!, receivers!, ...before])
  return { outcome: 'newest', now: Number(now), token: Number(token), predecessors }
}

export interface RestateReply {
  /** Redis's clock. Unit: microseconds. */
  readonly now: number
  /** Indexes in the restated claims of the claims that newer claims have replaced. */
  readonly superseded: number[]
}

/** `probedKeys` only choose the node of a Redis Cluster that answers, for a beat without claims. */
export function restateCommand ({ id, lease, channels }: Sender, beat: number, claims: ReadonlyArray<Place & { readonly token: number }>, probedKeys: readonly string[]): Command<RestateReply> {
  return {
    script: RESTATE,
    keys: [...claims.map(({ redisKey }) => redisKey), ...probedKeys],
    args: [id, lease, channels, beat, ...claims.flatMap(({ field, number, token }) => [field, number, token])],
    parse: parseRestateOutput
  }
}

function parseRestateOutput (output: unknown): RestateReply {
  const [now, , ...superseded] = output as [string, number, ...number[]]
  return { now: Number(now), superseded: superseded.map(n => n - 1) }
}

export function releaseCommand ({ id }: Sender, places: readonly Place[]): Command<void> {
  return { script: RELEASE, keys: places.map(({ redisKey }) => redisKey), args: [id, ...places.flatMap(({ field, number }) => [field, number])], parse () {} }
}

/** Evicts the fields of `redisKey` that begin with `prefix`. */
export function evictCommand ({ id, channels }: Sender, redisKey: string, prefix: string, number: number, { at, tolerance }: Timing): Command<Notified[]> {
  return { script: EVICT, keys: [redisKey], args: [id, number, channels, prefix, at, tolerance], parse: parseNotified }
}

function parseNotified (output: unknown): Notified[] {
  const values = output as Array<string | number>
  return Array.from({ length: values.length / 3 }, (_, i) => {
    const [member, numbers, receivers] = values.slice(3 * i, 3 * i + 3) as [string, string, number]
    return { member, numbers: parseNumbers(numbers), receivers }
  })
}

export function countCommand ({ id }: Sender, redisKey: string): Command<number> {
  return { script: COUNT, keys: [redisKey], args: [id], parse: Number }
}
