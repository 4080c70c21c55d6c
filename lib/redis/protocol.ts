// The protocol between the processes of a cluster: names in Redis, messages, and the input and output of every script.
// Everything that must become true is state in Redis, see scripts.ts. A message only saves time: a member that misses a message
// finds the state. Messages and replies of the scripts are written in Lua; a test compares both files in a real Redis.
import { hash } from 'node:crypto'
import { ASK, BEAT, CLAIM, COUNT, EVICT, LEAVE, MARK, PROBE, RELEASE, REPLY, REQUESTS, RESTATE, SEND, SWEEP, UNMARK, WATCH, type Script } from './scripts.ts'
import type { ClusterMessage, StreamKey } from '../../types/index.ts'

// Names. Keys and fields contain digests of fixed length, so no choice of scope, tab id or name can imitate another key or field.

/**
 * How many hash slots a prefix uses in a Redis Cluster. The keys of a bucket share a hash slot, because a script may only
 * touch keys of one slot: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags
 */
export const BUCKETS = 16

/** The hash slot of each bucket: CRC16 of the hash tag, `0` to `f`, modulo 16384. */
export const SLOTS: readonly number[] = [13907, 9842, 5649, 1584, 14039, 9974, 5781, 1716, 14171, 10106, 15495, 3300, 7365, 11298, 15363, 3168]

// An application sends to the same scopes again and again, and hashing is a large part of the cost of `send`.
const digests = new Map<string, string>()
const DIGESTS = 1_000

/** The digest that names a scope: 40 hexadecimal digits. The first digit is the bucket. */
export function digestOf (scope: string): string {
  const known = digests.get(scope)
  if (known !== undefined) return known
  const digest = hash('sha256', scope).slice(0, 40)
  // The oldest entry goes first.
  if (digests.size === DIGESTS) digests.delete(digests.keys().next().value!)
  digests.set(scope, digest)
  return digest
}

/** The bucket of a scope, from 0 to 15. */
export function bucketOf (digest: string): number {
  return parseInt(digest[0]!, 16)
}

export function scopeKey (prefix: string, digest: string): string {
  return `${prefix}{${digest[0]}}:${digest.slice(1)}`
}

export function recordKey (prefix: string, bucket: number, member: string): string {
  return `${prefix}{${bucket.toString(16)}}:member:${member}`
}

/** The bucket of the index of all members. Messages to all members go through this bucket. */
export const INDEX_BUCKET = 0

/** The index of all members. */
function indexKey (prefix: string): string {
  return `${prefix}{${INDEX_BUCKET}}:members`
}

/** The beginning of every field of a tab, `<digest>:`. */
export function fieldPrefix (tabId: string): string {
  return `${shortDigest(tabId)}:`
}

/** The field of a stream key: `<digest>:` or `<digest>:<digest of the name>`. Without a tab id, a field for this claim alone: `-<member>:<number>`. */
export function fieldName ({ tabId, name }: StreamKey, member: string, number: number): string {
  if (tabId === undefined) return `-${member}:${number}`
  return name === undefined ? fieldPrefix(tabId) : fieldPrefix(tabId) + shortDigest(name)
}

// Of the JSON text: in UTF-8 all lone surrogates would be the same character, https://encoding.spec.whatwg.org/#utf-8-encoder
function shortDigest (text: string): string {
  return hash('sha256', JSON.stringify(text), 'base64url').slice(0, 22)
}

/** The beginning of every member's channel. The member's id follows. */
export function channelPrefix (prefix: string): string {
  return `${prefix}member:`
}

// Messages. Scripts publish a message on the channel of the member that is addressed. Redis delivers a message at most once,
// so a message may be lost: https://redis.io/docs/latest/develop/pubsub/#delivery-semantics

/** Names a claim of a member to other members. */
export interface ClaimName {
  /** Counts the claims of a member, from 1. */
  readonly number: number
  readonly field: string
}

/** Asks a member to end claims of a scope: `end <reason> <digest> <field> <number> <field> <number> ...`. */
export interface EndMessage {
  readonly type: 'end'
  readonly reason: EndReason
  readonly digest: string
  readonly claims: readonly ClaimName[]
}

export type EndReason = 'replaced' | 'evicted'

/** Tells a member that a claim of another member is gone: `gone <member> <number>`. */
export interface GoneMessage {
  readonly type: 'gone'
  readonly member: string
  readonly number: number
}

/** Proves to a member that the subscription works: `beat <number>`. */
export interface BeatMessage {
  readonly type: 'beat'
  readonly number: number
}

/** Names a message of a member: the member counts its messages in each bucket, from 1. */
export interface MessageName {
  readonly sender: string
  readonly bucket: number
  readonly sequence: number
}

/** Carries an event to the streams of a member: `send `, a JSON list of the other properties, a line feed, and the text of the event. */
export interface SendMessage extends MessageName {
  readonly type: 'send'
  readonly message: ClusterMessage
}

/** Asks a member which streams are open in a scope: `list <sender> <bucket> <sequence> <JSON>`. */
export interface ListMessage extends MessageName {
  readonly type: 'list'
  readonly scope: string
}

/** A page of the reply to a message. Each page counts, whatever the order of arrival is. */
export interface ReplyPage {
  readonly sequence: number
  /** From 0. */
  readonly page: number
  /** How many pages the reply has, 1 at least. */
  readonly pages: number
  /** JSON: the number of streams that took the event, or a list of streams. */
  readonly body: string
}

/** Replies to messages of one bucket: `reply <member> <bucket>`, and for each page a line feed and `<sequence> <page> <pages> <JSON>`. */
export interface ReplyMessage {
  readonly type: 'reply'
  readonly member: string
  readonly bucket: number
  readonly replies: readonly ReplyPage[]
}

export type Message = EndMessage | GoneMessage | BeatMessage | SendMessage | ListMessage | ReplyMessage

export function sendText ({ sender, bucket, sequence }: MessageName, { scope, tabId, name, except, retry, text }: ClusterMessage): string {
  return `send ${JSON.stringify([sender, bucket, sequence, scope, tabId, name, except, retry])}\n${text}`
}

export function listText ({ sender, bucket, sequence }: MessageName, scope: string): string {
  return `list ${sender} ${bucket} ${sequence} ${JSON.stringify(scope)}`
}

export function parseMessage (text: string): Message {
  // The frequent message goes the short way.
  if (text.startsWith('send ')) return parseSend(text)
  // A reply may be long, so a message is not split as a whole.
  const end = text.indexOf('\n')
  const head = end === -1 ? text : text.slice(0, end)
  const [type, ...words] = head.split(' ') as [string, ...string[]]
  switch (type) {
    case 'list': return { type, sender: words[0]!, bucket: Number(words[1]), sequence: Number(words[2]), scope: JSON.parse(words.slice(3).join(' ')) }
    case 'reply': return { type, member: words[0]!, bucket: Number(words[1]), replies: text.slice(end + 1).split('\n').map(parseReply) }
    case 'end': {
      const [reason, digest, ...names] = words as [EndReason, string, ...string[]]
      return { type, reason, digest, claims: inGroups(names, 2).map(([field, number]) => ({ field: field!, number: Number(number) })) }
    }
    case 'gone': return { type, member: words[0]!, number: Number(words[1]) }
    default: return { type: 'beat', number: Number(words[0]) }
  }
}

// JSON contains no line feed, and turns `undefined` in a list into `null`.
function parseSend (text: string): SendMessage {
  const end = text.indexOf('\n')
  const [sender, bucket, sequence, scope, tabId, name, except, retry] = JSON.parse(text.slice('send '.length, end))
  return {
    type: 'send',
    sender,
    bucket,
    sequence,
    message: { scope: scope ?? undefined, tabId: tabId ?? undefined, name: name ?? undefined, except: except ?? undefined, retry: retry ?? undefined, text: text.slice(end + 1) }
  }
}

function parseReply (line: string): ReplyPage {
  const [, sequence, page, pages, body] = /^(\d+) (\d+) (\d+) (.*)$/s.exec(line)!
  return { sequence: Number(sequence), page: Number(page), pages: Number(pages), body: body! }
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
  readonly prefix: string
  /** How long the keys of a scope live. Unit: milliseconds. */
  readonly lease: number
}

/**
 * How long Redis keeps the record of a member that does not renew the record. Other processes wait for a killed process that
 * long at most. Unit: milliseconds.
 */
export const RECORD_LEASE = 2_500

/**
 * The shortest allowed lease of a scope's key. A member renews the key when half of the lease is over, and a script renews a key only if less than
 * three quarters of the lease are left. So a key may have a quarter of the lease left when its member stops. Even then the key must outlive the
 * record of the member: a newcomer waits for a member that stands still, and learns from the key for which member. Unit: milliseconds.
 */
export const MIN_LEASE = 12_000

/** How many claims one script handles. More would block Redis for longer than some milliseconds. */
export const PAGE = 250

/** How long Redis keeps the index of members if no member renews the index. Unit: milliseconds. */
const INDEX_LEASE = 3_600_000

/** How long the mark of an eviction lives: longer than every lease that the mark may concern. Unit: milliseconds. */
export const MARK_LIFE = 7_200_000

/** How long Redis keeps the marks of scopes, and the members that made the marks, if no member changes these. Unit: milliseconds. */
const PRESENCE_LIFE = 2_592_000_000

/** Where Redis stores a claim. */
export interface Place extends ClaimName {
  readonly digest: string
}

/** A claim that is gone. */
export interface Released extends Place {
  /** The number of the member's newest claim in the scope so far if the member has no further claim there, else 0. */
  readonly newest: number
}

/** When a claim or an eviction was made. */
export interface Timing {
  /** Unit: microseconds of Redis's clock, as the member estimates that clock. 0 to count from the moment at which Redis runs the script. */
  readonly at: number
  /** How much later the script may run, and then count from that moment. -1 to count from `at` in any case. Unit: microseconds. */
  readonly tolerance: number
}

/** A claim of another member that was asked to end. */
export interface Asked extends Place {
  readonly member: string
  readonly reason: EndReason
  /** How many subscriptions received the request, or -1 if an earlier claim has made the request. */
  readonly receivers: number
}

/** The script ran later than `Timing` allows, and changed nothing. */
export interface LateReply {
  readonly outcome: 'late'
  /** Redis's clock. Unit: microseconds. */
  readonly now: number
}

export type ClaimReply =
  | LateReply
  /** A newer claim exists, or the claim was evicted since it was made: Redis does not hold this claim. */
  | { readonly outcome: 'superseded', readonly now: number, readonly ops: number, readonly reason: EndReason }
  /** The claim is the newest. `predecessors` must be gone before the stream starts. */
  | { readonly outcome: 'newest', readonly now: number, readonly ops: number, readonly token: number, readonly predecessors: Asked[] }

export function claimCommand (sender: Sender, { digest, field, number }: Place, { at, tolerance }: Timing): Command<ClaimReply> {
  return {
    script: CLAIM,
    ...addressed(sender, bucketOf(digest), [digest], [field, number, sender.lease, RECORD_LEASE, at, tolerance]),
    parse (output) {
      const [outcome, now, ops, token, ...rest] = output as [ClaimReply['outcome'], string, number, string, ...Array<string | number>]
      if (outcome === 'late') return { outcome, now: Number(now) }
      if (outcome === 'superseded') return { outcome, now: Number(now), ops, reason: token as EndReason }
      const predecessors = inGroups(rest, 3).map(([member, before, receivers]): Asked => (
        { member: String(member), number: Number(before), reason: 'replaced', digest, field, receivers: Number(receivers) }
      ))
      return { outcome, now: Number(now), ops, token: Number(token), predecessors }
    }
  }
}

export interface BeatReply {
  readonly now: number
  /** How many subscriptions received the beat, or -1 if none was sent. */
  readonly receivers: number
  /** For each bucket: the count of operations, or -1 if the record did not exist, and the number of requests to end claims. */
  readonly records: ReadonlyArray<{ readonly ops: number, readonly requests: number }>
}

/** `beat` is `undefined` to send no beat. In a Redis Cluster pass a single bucket: Redis refuses a script with keys of several hash slots. */
export function beatCommand ({ id, prefix }: Sender, buckets: readonly number[], isDeaf: boolean, beat?: number): Command<BeatReply> {
  return {
    script: BEAT,
    keys: recordsAndIndex(prefix, buckets, id),
    args: [id, channelPrefix(prefix), RECORD_LEASE, Number(isDeaf), beat ?? '', buckets.includes(INDEX_BUCKET) ? INDEX_LEASE : ''],
    parse (output) {
      const [now, receivers, ...rest] = output as [string, number, ...number[]]
      return { now: Number(now), receivers, records: inGroups(rest, 2).map(([ops, requests]) => ({ ops: ops!, requests: requests! })) }
    }
  }
}

export interface ProbeReply {
  readonly now: number
}

/** Succeeds only if Redis refuses no command for the keys of `bucket`. */
export function probeCommand (sender: Sender, bucket: number, beat: number): Command<ProbeReply> {
  const { keys: [record], args } = addressed(sender, bucket, [], [beat])
  return { script: PROBE, keys: [record!, `${record!}:probe`], args, parse: output => ({ now: Number((output as [string])[0]) }) }
}

export interface RequestsReply {
  /** `'0'` after the last page. */
  readonly cursor: string
  readonly requests: ReadonlyArray<Place & { readonly reason: EndReason }>
}

export function requestsCommand (sender: Sender, bucket: number, cursor: string): Command<RequestsReply> {
  return {
    script: REQUESTS,
    ...addressed(sender, bucket, [], [cursor]),
    parse (output) {
      const [next, ...rest] = output as string[]
      return {
        cursor: next!,
        requests: inGroups(rest, 4).map(([number, reason, digest, field]) => ({ number: Number(number), reason: reason as EndReason, digest: digest!, field: field! }))
      }
    }
  }
}

export type AskReply =
  /** Redis has lost data, and nothing was asked. */
  | { readonly outcome: 'lost', readonly now: number }
  /** `pending` holds the indexes of the claims that are not gone, and how many subscriptions received each request. */
  | { readonly outcome: 'asked', readonly now: number, readonly pending: ReadonlyArray<{ readonly index: number, readonly receivers: number }> }

/**
 * `ops` is the greatest count of operations that the member has seen. `mayMiss` says that Redis has lost data so recently that
 * other members may not be back yet. `isUnheard` says of a claim that nobody received the last request.
 */
export function askCommand (sender: Sender, bucket: number, ops: number, mayMiss: boolean, asked: ReadonlyArray<Asked & { readonly isUnheard: boolean }>): Command<AskReply> {
  return {
    script: ASK,
    ...addressed(sender, bucket, [], [ops, Number(mayMiss), ...asked.flatMap(({ member, number, reason, digest, field, isUnheard }) => [member, number, reason, digest, field, Number(isUnheard)])]),
    parse (output) {
      const [outcome, now, ...rest] = output as ['lost' | 'asked', string, ...number[]]
      if (outcome === 'lost') return { outcome, now: Number(now) }
      return { outcome, now: Number(now), pending: inGroups(rest, 2).map(([n, receivers]) => ({ index: n! - 1, receivers: receivers! })) }
    }
  }
}

export interface RestateReply {
  readonly now: number
  readonly ops: number
  /** Claims that must end, as indexes in the restated claims. */
  readonly ended: ReadonlyArray<{ readonly index: number, readonly reason: EndReason }>
}

/** All claims must be of one bucket. */
export function restateCommand (sender: Sender, bucket: number, claims: ReadonlyArray<Place & { readonly token: number }>): Command<RestateReply> {
  return {
    script: RESTATE,
    ...addressed(sender, bucket, claims.map(({ digest }) => digest), [sender.lease, RECORD_LEASE, ...claims.flatMap(({ field, number, token }) => [field, number, token])]),
    parse (output) {
      const [now, ops, ...rest] = output as [string, number, ...Array<string | number>]
      return { now: Number(now), ops, ended: inGroups(rest, 2).map(([n, reason]) => ({ index: Number(n) - 1, reason: reason as EndReason })) }
    }
  }
}

/** All places must be of one bucket. */
export function releaseCommand (sender: Sender, bucket: number, places: readonly Released[]): Command<void> {
  return {
    script: RELEASE,
    ...addressed(sender, bucket, places.map(({ digest }) => digest), places.flatMap(({ field, number, newest }) => [field, number, newest])),
    parse () {}
  }
}

export type EvictReply =
  | LateReply
  | { readonly outcome: 'evicted', readonly now: number, readonly ops: number, readonly token: number, readonly cursor: string, readonly asked: Asked[] }

/** Evicts the fields that begin with `fields`, some at a time. `cursor` is `'0'` at first, and again after the last page. */
export function evictCommand (sender: Sender, digest: string, fields: string, cursor: string, { at, tolerance }: Timing): Command<EvictReply> {
  return {
    script: EVICT,
    ...addressed(sender, bucketOf(digest), [digest], [cursor, fields, RECORD_LEASE, MARK_LIFE, at, tolerance]),
    parse (output) {
      const [outcome, now, ops, token, next, ...rest] = output as ['late' | 'evicted', string, number, string, string, ...Array<string | number>]
      if (outcome === 'late') return { outcome, now: Number(now) }
      const asked = inGroups(rest, 4).map(([member, number, field, receivers]): Asked => (
        { member: String(member), number: Number(number), reason: 'evicted', digest, field: String(field), receivers: Number(receivers) }
      ))
      return { outcome, now: Number(now), ops, token: Number(token), cursor: next, asked }
    }
  }
}

export interface CountReply {
  /** `'0'` after the last page. */
  readonly cursor: string
  /** The fields of the counted claims. A cursor may return a field twice. */
  readonly fields: readonly string[]
}

export function countCommand (sender: Sender, digest: string, cursor: string): Command<CountReply> {
  return {
    script: COUNT,
    ...addressed(sender, bucketOf(digest), [digest], [cursor]),
    parse (output) {
      const [next, ...fields] = output as [string, ...string[]]
      return { cursor: next, fields }
    }
  }
}

/** A message to members, as SEND sends it. */
export interface Outgoing {
  /** The scope whose members are told. `undefined` to tell all members. */
  readonly digest: string | undefined
  /** As {@link sendText} or {@link listText} made it. */
  readonly text: string
}

export interface SendReply {
  /** The members that were told, and how many subscriptions received the message: `index` is the message's place in the command. */
  readonly told: ReadonlyArray<{ readonly index: number, readonly member: string, readonly receivers: number }>
}

/** All messages must be of one bucket. Messages to all members are of the bucket `INDEX_BUCKET`. */
export function sendCommand (sender: Sender, bucket: number, messages: readonly Outgoing[]): Command<SendReply> {
  return {
    script: SEND,
    ...addressed(sender, bucket, [], messages.flatMap(({ digest, text }) => [digest ?? '', text])),
    parse: output => ({
      told: inGroups(output as Array<string | number>, 3).map(([n, member, receivers]) => ({ index: Number(n) - 1, member: String(member), receivers: Number(receivers) }))
    })
  }
}

/** Sends replies to messages that the member `to` has sent in `bucket`. */
export function replyCommand (sender: Sender, bucket: number, to: string, replies: readonly ReplyPage[]): Command<void> {
  const lines = replies.map(({ sequence, page, pages, body }) => `\n${sequence} ${page} ${pages} ${body}`)
  return { script: REPLY, ...addressed(sender, bucket, [], [to, `reply ${sender.id} ${bucket}${lines.join('')}`]), parse () {} }
}

/** A scope that is marked as online. */
export interface Mark {
  readonly digest: string
  readonly scope: string
}

/** All marks must be of one bucket. Replies with `true` for each scope that was not marked. */
export function markCommand (sender: Sender, bucket: number, marks: readonly Mark[]): Command<boolean[]> {
  return {
    script: MARK,
    ...withMarks(sender, bucket, [PRESENCE_LIFE, ...marks.flatMap(({ digest, scope }) => [digest, scope])]),
    parse: output => (output as number[]).map(isNew => isNew === 1)
  }
}

/** A mark is removed if no member has claims in the scope, and no other member counts the scope as online. A mark is missing if there was none. */
export type UnmarkReply = 'removed' | 'stays' | 'missing'

export function unmarkCommand (sender: Sender, digest: string): Command<UnmarkReply> {
  const { keys, args } = withMarks(sender, bucketOf(digest), [digest])
  return { script: UNMARK, keys: [...keys, scopeKey(sender.prefix, digest)], args, parse: output => output === 1 ? 'removed' : output === 0 ? 'stays' : 'missing' }
}

export interface SweepReply {
  /** `'0'` after the last page. */
  readonly cursor: string
  readonly scopes: readonly string[]
}

export function sweepCommand (sender: Sender, bucket: number, cursor: string): Command<SweepReply> {
  return {
    script: SWEEP,
    ...withMarks(sender, bucket, [cursor]),
    parse (output) {
      const [next, ...scopes] = output as [string, ...string[]]
      return { cursor: next, scopes }
    }
  }
}

/** Replies with the dead members that have marked scopes. */
export function watchCommand ({ id, prefix }: Sender, forgotten: readonly string[]): Command<string[]> {
  return {
    script: WATCH,
    keys: [recordKey(prefix, INDEX_BUCKET, id), `${prefix}{${INDEX_BUCKET}}:watchers`],
    args: [id, channelPrefix(prefix), PRESENCE_LIFE, ...forgotten],
    parse: output => output as string[]
  }
}

function withMarks ({ id, prefix }: Sender, bucket: number, args: Array<string | number>) {
  return { keys: [recordKey(prefix, bucket, id), `${prefix}{${bucket.toString(16)}}:online`], args: [id, channelPrefix(prefix), ...args] }
}

/** In a Redis Cluster pass a single bucket. */
export function leaveCommand ({ id, prefix }: Sender, buckets: readonly number[]): Command<void> {
  return { script: LEAVE, keys: recordsAndIndex(prefix, buckets, id), args: [id, channelPrefix(prefix), Number(buckets.includes(INDEX_BUCKET))], parse () {} }
}

/** The records of a member in `buckets`, and the index of members if its bucket is among `buckets`. */
function recordsAndIndex (prefix: string, buckets: readonly number[], id: string): string[] {
  const records = buckets.map(bucket => recordKey(prefix, bucket, id))
  return buckets.includes(INDEX_BUCKET) ? [...records, indexKey(prefix)] : records
}

function addressed ({ id, prefix }: Sender, bucket: number, digests: readonly string[], args: Array<string | number>) {
  return { keys: [recordKey(prefix, bucket, id), ...digests.map(digest => scopeKey(prefix, digest))], args: [id, channelPrefix(prefix), ...args] }
}

function inGroups<T> (list: readonly T[], size: number): T[][] {
  return Array.from({ length: list.length / size }, (_, i) => list.slice(i * size, (i + 1) * size))
}
