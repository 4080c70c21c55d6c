// Messages to streams of other processes: sends each message to the processes that hold the scope, and collects the replies.
import { DelayQueue, type Delayed } from '../delay-queue.ts'
import { deferred } from '../wait.ts'
import { bucketOf, digestOf, INDEX_BUCKET, listText, replyCommand, sendCommand, sendText } from './protocol.ts'
import type { Bucket } from './claims.ts'
import type { RedisConnection } from './connection.ts'
import type { RedisHealth } from './health.ts'
import type { ListMessage, MessageName, Outgoing, ReplyMessage, ReplyPage, Sender, SendMessage } from './protocol.ts'
import type { ClusterContext, ClusterMessage, StreamInfo } from '../../types/index.ts'

export interface ReachingOptions extends Pick<ClusterContext, 'deliver' | 'list'> {
  readonly sender: Sender
  readonly buckets: readonly Bucket[]
  readonly connection: RedisConnection
  readonly health: RedisHealth
  /** How long the replies to a message may take. Unit: milliseconds. */
  readonly replyTimeout: number
}

/** A message of this process that other processes have not answered yet. */
interface Pending extends Outgoing {
  readonly lane: Lane
  readonly sequence: number
  /** The pages that have arrived from each member. A reply may overtake the output of SEND, because messages travel on another connection. */
  readonly pages: Map<string, Map<number, string>>
  /** The members whose replies are complete. */
  readonly answered: Set<string>
  /** The members whose replies are waited for. `undefined` until the output of SEND has told. */
  awaited: readonly string[] | undefined
  /** Ends the wait after `replyTimeout`. Set when the message is sent. */
  deadline: Delayed<Pending> | undefined
  /** Ends the wait, with the replies that have come. */
  readonly settle: () => void
}

/** The messages of this process in a bucket. A single SEND is in flight at a time: a SEND that must be sent again would arrive behind a later SEND. */
interface Lane {
  readonly bucket: Bucket
  lastSequence: number
  waiting: Pending[]
  isSending: boolean
  /** Messages that were sent, by sequence number. */
  readonly sent: Map<number, Pending>
}

/** How much one SEND carries at most, unless a single message is longer. More would block Redis for longer than some milliseconds. */
const BATCH_MESSAGES = 100
const BATCH_LENGTH = 1_048_576
/** How many streams one page of a reply describes. */
const LIST_PAGE = 1_000
/** Of how many members this process remembers the last message. */
const REMEMBERED = 10_000

export class Reaching {
  readonly #options: ReachingOptions
  readonly #lanes: readonly Lane[]
  readonly #deadlines: DelayQueue<Pending>
  // The sequence number of the last message of each member in each bucket. The member heard last is the last entry.
  readonly #heard = new Map<string, number[]>()
  // Replies of this turn, by bucket and member.
  readonly #replies = new Map<string, { readonly bucket: number, readonly to: string, readonly pages: ReplyPage[] }>()
  #isStopped = false

  constructor (options: ReachingOptions) {
    this.#options = options
    this.#deadlines = new DelayQueue(options.replyTimeout, pending => this.#settle(pending))
    this.#lanes = options.buckets.map(bucket => ({ bucket, lastSequence: 0, waiting: [], isSending: false, sent: new Map() }))
  }

  /** Resolves to the number of streams that took the message, as far as the other processes have told. */
  async send (message: ClusterMessage): Promise<number> {
    const counts = await this.#ask(message.scope, name => sendText(name, message)) as number[]
    return counts.reduce((sum, count) => sum + count, 0)
  }

  async list (scope: string): Promise<StreamInfo[]> {
    const lists = await this.#ask(scope, name => listText(name, scope)) as StreamInfo[][]
    return lists.flat()
  }

  /** Resolves to the pages of the replies, or to an empty list if Redis is away. `scope` is `undefined` to ask all members. */
  async #ask (scope: string | undefined, textOf: (name: MessageName) => string): Promise<unknown[]> {
    const { sender, health } = this.#options
    const digest = scope === undefined ? undefined : digestOf(scope)
    const lane = this.#lanes[digest === undefined ? INDEX_BUCKET : bucketOf(digest)]!
    if (this.#isStopped || !health.checkReachable(lane.bucket)) return []
    const { promise, resolve } = deferred<void>()
    const sequence = ++lane.lastSequence
    const text = textOf({ sender: sender.id, bucket: lane.bucket.number, sequence })
    const pending: Pending = { lane, sequence, digest, text, pages: new Map(), answered: new Set(), awaited: undefined, deadline: undefined, settle: resolve }
    lane.waiting.push(pending)
    if (!lane.isSending) this.#sendWaiting(lane)
    await promise
    return [...pending.pages.values()].flatMap(pages => [...pages.values()]).map(body => JSON.parse(body))
  }

  /** Sends what waits in `lane`, one batch after another. */
  async #sendWaiting (lane: Lane): Promise<void> {
    const { sender, health } = this.#options
    lane.isSending = true
    while (lane.waiting.length > 0) {
      const batch = takeBatch(lane.waiting)
      // The messages leave first, because no reply can come in this turn.
      const running = health.run([lane.bucket], sendCommand(sender, lane.bucket.number, batch), ({ told }) => {
        const awaited = batch.map((): string[] => [])
        for (const { index, member, receivers } of told) {
          // Nobody can answer a message that nobody received.
          if (receivers > 0 || !this.#options.connection.countsReceivers) awaited[index]!.push(member)
        }
        for (const [i, pending] of batch.entries()) {
          pending.awaited = awaited[i]!
          this.#check(pending)
        }
      }, {
        // A message that is not waited for any more must not arrive late.
        isWanted: () => batch.some(({ sequence }) => lane.sent.has(sequence))
      })
      for (const pending of batch) {
        lane.sent.set(pending.sequence, pending)
        pending.deadline = this.#deadlines.add(pending)
      }
      await running
    }
    lane.isSending = false
  }

  // The messages of other members.

  onMessage (asked: SendMessage | ListMessage): void {
    if (!this.#isNew(asked)) return
    if (asked.type === 'send') return this.#reply(asked, [this.#options.deliver(asked.message)])
    const streams = this.#options.list(asked.scope)
    const pages = Array.from({ length: Math.max(1, Math.ceil(streams.length / LIST_PAGE)) }, (_, i) => streams.slice(i * LIST_PAGE, (i + 1) * LIST_PAGE))
    this.#reply(asked, pages)
  }

  /** Whether this is the first time that the message arrives. A client may send a command once more after a new connection. */
  #isNew ({ sender, bucket, sequence }: MessageName): boolean {
    const last = this.#heard.get(sender) ?? []
    this.#heard.delete(sender)
    this.#heard.set(sender, last)
    if (this.#heard.size > REMEMBERED) this.#heard.delete(this.#heard.keys().next().value!)
    if (sequence <= (last[bucket] ?? 0)) return false
    last[bucket] = sequence
    return true
  }

  #reply ({ sender, bucket, sequence }: MessageName, bodies: readonly unknown[]): void {
    const pages = bodies.map((body, page) => ({ sequence, page, pages: bodies.length, body: JSON.stringify(body) }))
    // A long list is not sent together with anything else.
    if (bodies.length > 1) {
      for (const page of pages) this.#sendReplies(bucket, sender, [page])
      return
    }
    if (this.#replies.size === 0) queueMicrotask(() => this.#sendAllReplies())
    const key = `${bucket} ${sender}`
    const replies = this.#replies.get(key)
    if (replies === undefined) this.#replies.set(key, { bucket, to: sender, pages })
    else replies.pages.push(...pages)
  }

  #sendAllReplies (): void {
    const replies = [...this.#replies.values()]
    this.#replies.clear()
    for (const { bucket, to, pages } of replies) this.#sendReplies(bucket, to, pages)
  }

  #sendReplies (number: number, to: string, pages: ReplyPage[]): void {
    const { sender, buckets, health } = this.#options
    const bucket = buckets[number]!
    if (!this.#isStopped && health.checkReachable(bucket)) health.run([bucket], replyCommand(sender, number, to, pages), () => {})
  }

  // The replies of other members.

  onReply ({ member, bucket, replies }: ReplyMessage): void {
    for (const { sequence, page, pages, body } of replies) {
      const pending = this.#lanes[bucket]!.sent.get(sequence)
      if (pending === undefined) continue
      const arrived = pending.pages.get(member) ?? new Map<number, string>()
      pending.pages.set(member, arrived.set(page, body))
      if (arrived.size < pages) continue
      pending.answered.add(member)
      this.#check(pending)
    }
  }

  #check (pending: Pending): void {
    // Without a subscription no reply can come.
    const isDeaf = !this.#options.connection.isSubscribed
    if (pending.awaited?.every(member => isDeaf || pending.answered.has(member)) === true) this.#settle(pending)
  }

  /** The subscription is lost, and with the subscription the replies that are under way. */
  onDeaf (): void {
    for (const { sent } of this.#lanes) for (const pending of sent.values()) this.#check(pending)
  }

  /** Redis has lost data of `bucket`: replies may be lost. */
  onLost (bucket: Bucket): void {
    for (const pending of this.#lanes[bucket.number]!.sent.values()) if (pending.awaited !== undefined) this.#settle(pending)
  }

  /** Redis does not answer for `bucket`: nothing more is sent there, and no reply is waited for. */
  onAway (bucket: Bucket): void {
    const lane = this.#lanes[bucket.number]!
    for (const pending of [...lane.waiting.splice(0), ...lane.sent.values()]) this.#settle(pending)
  }

  /** Settles everything, and neither sends nor answers anything more. */
  stop (): void {
    this.#isStopped = true
    for (const { bucket } of this.#lanes) this.onAway(bucket)
  }

  #settle (pending: Pending): void {
    pending.lane.sent.delete(pending.sequence)
    if (pending.deadline !== undefined) this.#deadlines.delete(pending.deadline)
    pending.settle()
  }
}

/** Removes the first messages from `waiting`, as many as one SEND carries. */
function takeBatch (waiting: Pending[]): Pending[] {
  let length = 0
  let count = 0
  for (const { text } of waiting) {
    length += text.length
    if (count > 0 && (length > BATCH_LENGTH || count === BATCH_MESSAGES)) break
    count++
  }
  return waiting.splice(0, count)
}
