// A process as a member of the cluster: claims stream keys in Redis, waits for predecessors in other processes, and ends claims at their request.
import { randomBytes } from 'node:crypto'
import { afterReading, deferred, within } from '../wait.ts'
import { PendingAcks } from './acks.ts'
import { inChunks, RedisClaims, type RedisClaim } from './claims.ts'
import { RedisClock } from './clock.ts'
import type { ConnectionListener, RedisConnection } from './connection.ts'
import { RedisHealth } from './health.ts'
import {
  BUCKETS, channelPrefix, claimCommand, countCommand, evictCommand, fieldPrefix, formatMessage, locateScope, parseMessage,
  releaseCommand, restateCommand, type EndMessage, type Notified, type Sender, type Timing
} from './protocol.ts'
import type { Cluster, ClusterClaim, ClusterContext } from '../../types/index.ts'

export interface MemberOptions extends ClusterContext {
  readonly prefix: string
  readonly lease: number
}

/** How late a claim or an eviction may reach Redis and still count from the arrival. Unit: milliseconds. */
const TOLERANCE_MS = 1_000

export class Member implements Cluster, ConnectionListener {
  readonly id = randomBytes(12).toString('base64url')
  readonly channel: string
  readonly #prefix: string
  readonly #sender: Sender
  readonly #connection: RedisConnection
  readonly #clock = new RedisClock()
  readonly #health: RedisHealth
  readonly #acks: PendingAcks
  readonly #claims: RedisClaims
  /** How long Redis may take to reply before this process goes on without Redis. Unit: milliseconds. */
  readonly #replyTimeout: number
  // Claims that are gone, and that Redis must forget.
  #released: RedisClaim[] = []
  // The last number given to a claim or an eviction.
  #lastNumber = 0
  #nextBucket = 0
  #lastBeat = 0
  // When the first beat was sent after the last message arrived.
  #beatSentAt: number | undefined
  readonly #connected = deferred<void>()
  readonly #restating: NodeJS.Timeout

  constructor (options: MemberOptions, connect: (listener: ConnectionListener) => RedisConnection) {
    const { prefix, lease, replaceTimeout, log } = options
    this.#prefix = prefix
    this.#sender = { id: this.id, channels: channelPrefix(prefix), lease }
    this.channel = this.#channelOf(this.id)
    this.#replyTimeout = Math.min(2_500, replaceTimeout / 2)
    this.#claims = new RedisClaims(prefix, this.id)
    this.#connection = connect(this)
    this.#acks = new PendingAcks(this.#connection, replaceTimeout, log)
    this.#health = new RedisHealth(this.#connection, this.#clock, {
      replyTimeout: this.#replyTimeout,
      log,
      probeCommand: keys => restateCommand(this.#sender, ++this.#lastBeat, [], keys),
      onBack: () => this.#restateAll()
    })
    // Restates each claim twice per lease, a bucket at a time, so that the number of commands does not grow with the number of scopes.
    this.#restating = setInterval(() => afterReading(() => this.#restateNextBucket()), lease / 2 / BUCKETS).unref()
  }

  /** Waits until the connection sends and receives, then reads Redis's clock. If Redis does not answer in time, warns and resolves: the application starts anyway. */
  async join (): Promise<void> {
    if (!await within(this.#connected.promise, this.#replyTimeout)) {
      const problem = `the client must be connected to Redis and subscribed to ${this.channel} within ${this.#replyTimeout} ms, and is not. `
      return this.#health.markAway(new Error(`${problem}Check the address of Redis, and that the user may use the channels ${this.#sender.channels}*`))
    }
    // The clock must be known before the first claim, because a late claim counts from the time at which the claim was made.
    await this.#health.run(restateCommand(this.#sender, ++this.#lastBeat, [], []), ({ now }, sentAt) => this.#clock.learn(now, sentAt))
  }

  claim (clusterClaim: ClusterClaim): Promise<unknown> | undefined {
    const claim = this.#claims.add(clusterClaim, ++this.#lastNumber, this.#clock.now)
    if (!this.#health.checkReachable()) return undefined
    claim.sent = claim.claiming = true
    return this.#health.run(claimCommand(this.#sender, claim, this.#madeAt(claim.token)), (reply, sentAt) => {
      this.#clock.learn(reply.now, sentAt)
      if (reply.outcome === 'superseded') return this.#endSuperseded(claim)
      claim.token = reply.token
      if (reply.predecessors.length > 0) return Promise.all(reply.predecessors.map(notified => this.#awaitAck('replaced', claim.number, notified)))
    }, {
      // A claim that must be sent again would arrive behind a newer claim of this process, and pass for the newest.
      isWanted: () => this.#claims.isNewest(claim),
      onSettled: () => { claim.claiming = false }
    })
  }

  release (clusterClaim: ClusterClaim): void {
    const claim = this.#claims.delete(clusterClaim)
    if (claim === undefined || !claim.sent) return
    // Claims released in the same turn of the event loop go together, for example all claims at a shutdown.
    if (this.#released.push(claim) === 1) setImmediate(() => this.#sendReleased())
  }

  async evict (scope: string, tabId?: string): Promise<number> {
    if (!this.#health.checkReachable()) return 0
    const number = ++this.#lastNumber
    const { redisKey } = locateScope(this.#prefix, scope)
    const prefix = tabId === undefined ? '' : fieldPrefix(tabId)
    let count = 0
    await this.#health.run(evictCommand(this.#sender, redisKey, prefix, number, this.#madeAt(this.#clock.now)), reply => {
      for (const { numbers } of reply) count += numbers.length
      return Promise.all(reply.map(notified => this.#awaitAck('evicted', number, notified)))
    })
    return count
  }

  async count (scope: string): Promise<number> {
    if (!this.#health.checkReachable()) return 0
    let count = 0
    await this.#health.run(countCommand(this.#sender, locateScope(this.#prefix, scope).redisKey), reply => { count = reply })
    return count
  }

  async leave (): Promise<void> {
    clearInterval(this.#restating)
    this.#health.stop()
    this.#released.push(...this.#claims.newest().filter(claim => claim.sent))
    this.#claims.clear()
    await this.#sendReleased()
    this.#acks.giveUp()
    this.#connection.close()
  }

  onMessage (text: string): void {
    this.#beatSentAt = undefined
    const message = parseMessage(text)
    if (message.type === 'end') this.#endFor(message)
    else if (message.type === 'gone') this.#acks.onAck(message.from, message.ackNumber)
  }

  onReady (): void {
    if (this.#connection.canSend && this.#connection.isSubscribed) this.#connected.resolve()
    if (this.#health.isAway) this.#health.probe()
    else this.#restateAll()
  }

  /** Ends the claims that another member has replaced or evicts, and acknowledges when the claims are gone. */
  async #endFor ({ reason, from, ackNumber, numbers }: EndMessage): Promise<void> {
    const claims = numbers.map(number => this.#claims.byNumber(number)).filter(claim => claim !== undefined)
    for (const claim of claims) {
      if (reason === 'replaced') this.#claims.supersede(claim)
      claim.clusterClaim.end(reason)
    }
    if (ackNumber === 0) return
    await Promise.all(claims.map(({ clusterClaim }) => clusterClaim.released))
    // If this acknowledgement fails, `from` repeats the request.
    this.#connection.publish(this.#channelOf(from), formatMessage({ type: 'gone', from: this.id, ackNumber })).catch(() => {})
  }

  /** Waits until the claims that a script asked another member to end are gone. */
  #awaitAck (reason: EndMessage['reason'], ackNumber: number, { member, numbers, receivers }: Notified): Promise<void> {
    const message = formatMessage({ type: 'end', reason, from: this.id, ackNumber, numbers })
    return this.#acks.wait({ member, ackNumber, receivers, channel: this.#channelOf(member), message })
  }

  #endSuperseded (claim: RedisClaim): void {
    this.#claims.supersede(claim)
    claim.clusterClaim.end('replaced')
  }

  async #sendReleased (): Promise<void> {
    if (this.#released.length === 0 || !this.#health.checkReachable()) return
    const released = this.#released
    this.#released = []
    await Promise.all(inChunks(released).map(async chunk => {
      if (!await this.#health.run(releaseCommand(this.#sender, chunk), () => {})) this.#released.push(...chunk)
    }))
  }

  #restateNextBucket (): void {
    if (this.#health.isAway) return
    const claims = this.#claims.newest(this.#nextBucket)
    this.#nextBucket = (this.#nextBucket + 1) % BUCKETS
    if (claims.length === 0 || !this.#health.checkReachable()) return
    // Redis answers, but messages do not arrive: the subscription is broken, and the client has not noticed.
    if (this.#beatSentAt !== undefined && this.#connection.isSubscribed && performance.now() - this.#beatSentAt > this.#replyTimeout) {
      this.#beatSentAt = undefined
      this.#acks.giveUp()
      this.#connection.resubscribe()
    }
    this.#restate(claims)
  }

  #restateAll (): void {
    this.#restate(this.#claims.newest())
    this.#sendReleased()
  }

  #restate (claims: RedisClaim[]): void {
    for (const chunk of inChunks(claims.filter(({ claiming }) => !claiming))) {
      for (const claim of chunk) claim.sent = true
      this.#beatSentAt ??= performance.now()
      this.#health.run(restateCommand(this.#sender, ++this.#lastBeat, chunk, []), ({ now, superseded }, sentAt) => {
        this.#clock.learn(now, sentAt)
        for (const index of superseded) this.#endSuperseded(chunk[index]!)
      })
    }
  }

  #madeAt (time: number): Timing {
    return { at: this.#clock.isKnown ? time : 0, tolerance: Math.min(TOLERANCE_MS, this.#replyTimeout) * 1000 }
  }

  #channelOf (member: string): string {
    return this.#sender.channels + member
  }
}
