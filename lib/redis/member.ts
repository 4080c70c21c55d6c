// A process as a member of the cluster: claims stream keys in Redis, waits until predecessors elsewhere are gone, and ends claims on request.
import { randomBytes } from 'node:crypto'
import { afterReading, deferred, within } from '../wait.ts'
import { Beating, TICK_MS } from './beating.ts'
import { RedisClaims, type Bucket, type RedisClaim } from './claims.ts'
import { RedisClock } from './clock.ts'
import type { ConnectionListener, RedisConnection } from './connection.ts'
import { PendingEnds, type PendingEnd } from './ends.ts'
import { Evicting } from './evicting.ts'
import { Hearing } from './hearing.ts'
import { RedisHealth } from './health.ts'
import { Losses } from './losses.ts'
import { Marking } from './marking.ts'
import {
  askCommand, channelPrefix, claimCommand, countCommand, digestOf, leaveCommand, parseMessage, requestsCommand, type ClaimName, type EndReason, type Sender, type Timing
} from './protocol.ts'
import { Reaching } from './reaching.ts'
import { Releasing } from './releasing.ts'
import { Restating } from './restating.ts'
import type { Cluster, ClusterClaim, ClusterContext, ClusterMessage, StreamInfo } from '../../types/index.ts'

export interface MemberOptions extends ClusterContext {
  readonly prefix: string
  readonly lease: number
  readonly maxMessageBytes: number
}

// All times are in milliseconds.

export class Member implements Cluster, ConnectionListener {
  readonly id = randomBytes(12).toString('base64url')
  readonly channel: string
  readonly maxMessageBytes: number
  readonly #sender: Sender
  readonly #connection: RedisConnection
  readonly #clock: RedisClock
  readonly #health: RedisHealth
  readonly #hearing: Hearing
  readonly #losses: Losses
  readonly #ends: PendingEnds
  readonly #beating: Beating
  readonly #restating: Restating
  readonly #releasing: Releasing
  readonly #evicting: Evicting
  readonly #reaching: Reaching
  readonly #marking: Marking
  readonly #claims = new RedisClaims(this.id)
  /** How long Redis may take to reply before this process goes on without Redis. */
  readonly #replyTimeout: number
  // The last number given to a claim.
  #lastNumber = 0
  #isJoined = false
  #hasLeft = false
  readonly #connected = deferred<void>()
  /** Since when no command can be sent. `undefined` while commands can be sent. */
  #disconnectedAt: number | undefined
  readonly #ticking: NodeJS.Timeout

  constructor ({ prefix, lease, maxMessageBytes, replaceTimeout, log, deliver, list, offlineDelay, observesScopes, wentOffline }: MemberOptions, connect: (listener: ConnectionListener) => RedisConnection) {
    this.maxMessageBytes = maxMessageBytes
    const sender = this.#sender = { id: this.id, prefix, lease }
    this.channel = channelPrefix(prefix) + this.id
    const replyTimeout = this.#replyTimeout = Math.min(2_500, replaceTimeout / 2)
    const claims = this.#claims
    const { buckets } = claims
    const connection = this.#connection = connect(this)
    const clock = this.#clock = new RedisClock(Math.min(1_000, replyTimeout))
    const health = this.#health = new RedisHealth(connection, { buckets, replyTimeout, log, onAway: bucket => this.#reaching.onAway(bucket) })
    const hearing = this.#hearing = new Hearing(connection, replyTimeout, log)
    const losses = this.#losses = new Losses(connection, buckets, bucket => this.#onLost(bucket))
    const ends = this.#ends = new PendingEnds({ timeout: replaceTimeout, log, ask: (bucket, pending) => this.#ask(bucket, pending) })
    this.#beating = new Beating({
      sender, buckets, connection, health, hearing, clock, losses, onBack: bucket => this.#onBack(bucket), onRequests: bucket => this.#readRequests(bucket)
    })
    this.#restating = new Restating({ sender, health, clock, losses, onRequest: (reason, place) => this.#onRequest(reason, place.digest, place) })
    this.#releasing = new Releasing(sender, claims, health)
    this.#evicting = new Evicting({ sender, claims, health, clock, losses, ends })
    this.#reaching = new Reaching({ sender, buckets, connection, health, replyTimeout, deliver, list })
    this.#marking = new Marking({ sender, claims, health, losses, offlineDelay, observesScopes, wentOffline })
    // Buckets are not restated all at once.
    for (const bucket of buckets) bucket.restatedAt -= lease / 2 * bucket.number / buckets.length
    this.#ticking = setInterval(() => afterReading(() => this.#tick()), TICK_MS).unref()
  }

  /** Whether Redis does not answer, or refuses commands. */
  get isAway (): boolean {
    return this.#health.isAway
  }

  /** Waits until the connection sends and receives, and Redis takes writes. Otherwise warns and resolves: the application starts anyway. */
  async join (): Promise<void> {
    const isConnected = await within(this.#connected.promise, this.#replyTimeout)
    this.#isJoined = true
    if (!isConnected) {
      const problem = `the client must be connected to Redis and subscribed to ${this.channel} within ${this.#replyTimeout} ms, and is not. `
      const advice = `Check the address of Redis, and that the user may use the channels ${channelPrefix(this.#sender.prefix)}*`
      // A process that can write goes on without messages.
      if (!this.#connection.canSend) return this.#health.markAway(this.#claims.buckets, new Error(problem + advice))
    }
    // The clock must be known before the first claim, because a late claim counts from the time at which the claim was made.
    await this.#beating.beat(this.#claims.buckets)
  }

  claim (clusterClaim: ClusterClaim): Promise<unknown> | undefined {
    const claim = this.#claims.add(clusterClaim, ++this.#lastNumber)
    const { bucket } = claim
    if (!this.#health.checkReachable(bucket)) return undefined
    // The first claim in a bucket makes a record there. Nobody must take the silence of this process for death.
    if (this.#hearing.isDeaf && bucket.newest.size === 1) this.#beating.beat([bucket])
    return this.#sendClaim(claim, this.#clock.onTime())
  }

  async #sendClaim (claim: RedisClaim, timing: Timing): Promise<void> {
    const { bucket } = claim
    const { round } = bucket
    claim.isSent = claim.isClaiming = true
    await this.#health.run([bucket], claimCommand(this.#sender, claim, timing), async (reply, sentAt) => {
      this.#clock.learn(reply.now, sentAt)
      if (reply.outcome === 'late') {
        // While Redis is away, the claim is left to the restating.
        if (this.#claims.isNewest(claim) && this.#health.checkReachable(bucket)) await this.#sendClaim(claim, this.#clock.lateTiming(claim.madeAt))
        return
      }
      this.#losses.onCounted(bucket, reply.ops)
      if (reply.outcome === 'superseded') return this.#end(claim, reply.reason, false)
      claim.token = reply.token
      claim.round = round
      await this.#ends.wait(bucket, reply.predecessors)
    }, {
      // A claim that must be sent again would arrive behind a newer claim of this process, and pass for the newest.
      isWanted: () => this.#claims.isNewest(claim),
      onSettled: () => { claim.isClaiming = false }
    })
  }

  release (clusterClaim: ClusterClaim): void {
    const claim = this.#claims.delete(clusterClaim)
    if (claim !== undefined) this.#releasing.release(claim)
  }

  async evict (scope: string, tabId?: string): Promise<number> {
    return await this.#evicting.evict(scope, tabId)
  }

  async count (scope: string): Promise<number> {
    const digest = digestOf(scope)
    const bucket = this.#claims.bucket(digest)
    if (!this.#health.checkReachable(bucket)) return 0
    // A cursor may return a field twice: https://redis.io/docs/latest/commands/scan/#scan-guarantees
    const fields = new Set<string>()
    let cursor = '0'
    do {
      const isAnswered = await this.#health.run([bucket], countCommand(this.#sender, digest, cursor), reply => {
        for (const field of reply.fields) fields.add(field)
        cursor = reply.cursor
      })
      if (!isAnswered) return 0
    } while (cursor !== '0')
    return fields.size
  }

  async send (message: ClusterMessage): Promise<number> {
    return await this.#reaching.send(message)
  }

  async list (scope: string): Promise<StreamInfo[]> {
    return await this.#reaching.list(scope)
  }

  async markOnline (scope: string, onlineAgain: () => void): Promise<boolean> {
    return await this.#marking.markOnline(scope, onlineAgain)
  }

  async markOffline (scope: string): Promise<boolean> {
    return await this.#marking.markOffline(scope)
  }

  async leave (): Promise<void> {
    this.#hasLeft = true
    clearInterval(this.#ticking)
    for (const part of [this.#health, this.#beating, this.#restating, this.#evicting, this.#reaching, this.#marking]) part.stop()
    const { buckets } = this.#claims
    for (const released of this.#claims.clear()) this.#claims.bucket(released.digest).released.push(released)
    await Promise.all(buckets.map(bucket => this.#releasing.send(bucket)))
    const present = this.#health.byNode(buckets.filter(({ isAway }) => !isAway))
    await Promise.all(present.map(group => this.#health.run(group, leaveCommand(this.#sender, group.map(({ number }) => number)), () => {})))
    this.#ends.giveUp()
    this.#connection.close()
  }

  // What the connection reports.

  onMessage (text: string): void {
    const message = parseMessage(text)
    this.#hearing.onMessage(message.type === 'beat' ? message.number : undefined)
    switch (message.type) {
      case 'end':
        for (const name of message.claims) this.#onRequest(message.reason, message.digest, name)
        break
      case 'gone': return this.#ends.onGone(message.member, message.number)
      case 'send':
      case 'list': return this.#reaching.onMessage(message)
      case 'reply': return this.#reaching.onReply(message)
    }
  }

  /** Messages may have been lost: reads the state. */
  onReady (isReconnected = false): void {
    if (this.#connection.canSend && this.#connection.isSubscribed) this.#connected.resolve()
    if (isReconnected && this.#isJoined) {
      const now = performance.now()
      this.#losses.onReconnected(now - (this.#disconnectedAt ?? now))
    }
    if (this.#hasLeft || !this.#connection.canSend) return
    this.#ends.askSoon()
    this.#beating.beat(this.#claims.buckets.filter(({ isUsed }) => isUsed))
  }

  onDeaf (error: Error): void {
    this.#hearing.onDeaf(error)
    this.#reaching.onDeaf()
    // Nobody must take the silence for death.
    if (!this.#hasLeft && this.#connection.canSend) this.#beating.beat(this.#claims.buckets.filter(({ isUsed, isAway }) => isUsed && !isAway))
  }

  // What the parts of this member report.

  #tick (): void {
    if (this.#hasLeft) return
    const { canSend } = this.#connection
    this.#hearing.check(this.#health.isAway || !canSend)
    if (!canSend) return this.#noteDisconnected()
    this.#disconnectedAt = undefined
    this.#beating.beatDue()
    this.#restating.restateDue(this.#claims.buckets)
    this.#marking.watchDue()
  }

  // A short break is not an outage. A longer break is reported also if nobody sends a command meanwhile.
  #noteDisconnected (): void {
    this.#disconnectedAt ??= performance.now()
    if (this.#isJoined && performance.now() - this.#disconnectedAt >= this.#replyTimeout) this.#health.checkReachable(this.#claims.buckets[0]!)
  }

  /** Redis has lost data of `bucket`: tells Redis what this process knows. */
  #onLost (bucket: Bucket): void {
    this.#restating.restate(bucket)
    this.#evicting.onLost(bucket)
    this.#reaching.onLost(bucket)
    this.#marking.restate(bucket)
  }

  #onBack (bucket: Bucket): void {
    this.#health.markBack(bucket)
    this.#releasing.send(bucket)
    // Claims were made that Redis does not know, and a round may have been broken off.
    this.#restating.restateRest(bucket)
    this.#marking.restate(bucket)
  }

  async #readRequests (bucket: Bucket): Promise<void> {
    bucket.requested.clear()
    let cursor = '0'
    let isAnswered: boolean
    do {
      isAnswered = await this.#health.run([bucket], requestsCommand(this.#sender, bucket.number, cursor), reply => {
        cursor = reply.cursor
        for (const { reason, digest, ...name } of reply.requests) this.#onRequest(reason, digest, name)
      })
    } while (isAnswered && cursor !== '0')
  }

  /** Another process asks for the end of a claim. */
  #onRequest (reason: EndReason, digest: string, { number, field }: ClaimName): void {
    const claim = this.#claims.byNumber(number)
    if (claim !== undefined) this.#end(claim, reason, true)
    // The claim is gone, and Redis does not know.
    else this.#releasing.release(this.#claims.released({ number, field, digest }))
  }

  /** `isRequested` says that Redis holds a request for the end of `claim`. */
  #end (claim: RedisClaim, reason: EndReason, isRequested: boolean): void {
    // The claim may be gone by the time of a reply.
    if (this.#claims.byNumber(claim.number) !== claim) return
    claim.bucket.ending.add(claim.number)
    if (isRequested) claim.bucket.requested.add(claim.number)
    if (reason === 'replaced') this.#claims.supersede(claim)
    claim.clusterClaim.end(reason)
  }

  /** Asks once more for the end of claims of foreign members. */
  #ask (bucket: Bucket, pending: PendingEnd[]): void {
    const { ops } = bucket
    // Silence is a hint that a member is dead: a deaf member may not have had the time to write the record. A start may rely on the hint. An
    // eviction must not, because no evicted stream may be live once the eviction has resolved.
    const asked = pending.map(({ asked, isUnheard }) => ({ ...asked, isUnheard: isUnheard && asked.reason === 'replaced' && this.#connection.countsReceivers }))
    this.#health.run([bucket], askCommand(this.#sender, bucket.number, ops, this.#losses.mayMiss(bucket), asked), reply => {
      if (reply.outcome === 'lost') {
        // Otherwise an earlier reply has told of the same loss.
        if (bucket.ops === ops) this.#losses.onLost(bucket, 0)
        return
      }
      const left = new Map(reply.pending.map(({ index, receivers }) => [index, receivers]))
      for (const [i, end] of pending.entries()) {
        end.isUnheard = left.get(i) === 0
        // If nobody receives the next request either, the member is dead.
        if (asked[i]!.reason === 'replaced' && end.isUnheard && this.#connection.countsReceivers) end.askAt = 0
        if (!left.has(i)) this.#ends.settle(end)
      }
    })
  }
}
