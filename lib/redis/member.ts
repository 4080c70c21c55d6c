// A process as a member of the cluster: claims stream keys in Redis, waits until predecessors elsewhere are gone, and ends claims on request.
import { randomBytes } from 'node:crypto'
import { FST_ERR_OCTA_STAR_EVICT } from '../errors.ts'
import { afterReading, deferred, within } from '../wait.ts'
import { RedisClaims, type Bucket, type Eviction, type RedisClaim } from './claims.ts'
import { RedisClock } from './clock.ts'
import type { ConnectionListener, RedisConnection } from './connection.ts'
import { PendingEnds, type PendingEnd } from './ends.ts'
import { Hearing } from './hearing.ts'
import { RedisHealth } from './health.ts'
import {
  askCommand, beatCommand, channelPrefix, claimCommand, countCommand, digestOf, evictCommand, fieldPrefix, leaveCommand, PAGE, parseMessage, probeCommand, RECORD_LEASE,
  releaseCommand, requestsCommand, restateCommand, type Asked, type BeatReply, type ClaimName, type EndReason, type Place, type Sender, type Timing
} from './protocol.ts'
import type { Cluster, ClusterClaim, ClusterContext } from '../../types/index.ts'

export interface MemberOptions extends ClusterContext {
  readonly prefix: string
  readonly lease: number
}

// All times are in milliseconds.

const TICK_MS = 250
/** How often a member renews the records: three times per lease, so that a short halt does no harm. */
const BEAT_MS = 800
/** How often a member asks whether Redis is back. */
const PROBE_MS = 500

export class Member implements Cluster, ConnectionListener {
  readonly id = randomBytes(12).toString('base64url')
  readonly channel: string
  readonly #sender: Sender
  readonly #connection: RedisConnection
  readonly #clock = new RedisClock()
  readonly #health: RedisHealth
  readonly #hearing: Hearing
  readonly #ends: PendingEnds
  readonly #claims = new RedisClaims(this.id)
  /** How long Redis may take to reply before this process goes on without Redis. */
  readonly #replyTimeout: number
  /** How late a claim or an eviction may reach Redis and still count from the arrival. */
  readonly #tolerance: number
  // The last number given to a claim.
  #lastNumber = 0
  #isSendingReleased = false
  #restating: Promise<void> = Promise.resolve()
  #isJoined = false
  #hasLeft = false
  // When a connection was last made again. Unit: milliseconds of `performance.now()`.
  #readyAt = -Infinity
  readonly #connected = deferred<void>()
  readonly #ticking: NodeJS.Timeout

  constructor ({ prefix, lease, replaceTimeout, log }: MemberOptions, connect: (listener: ConnectionListener) => RedisConnection) {
    this.#sender = { id: this.id, prefix, lease }
    this.channel = channelPrefix(prefix) + this.id
    this.#replyTimeout = Math.min(2_500, replaceTimeout / 2)
    this.#tolerance = Math.min(1_000, this.#replyTimeout)
    this.#connection = connect(this)
    this.#health = new RedisHealth(this.#connection, { buckets: this.#claims.buckets, replyTimeout: this.#replyTimeout, log })
    this.#hearing = new Hearing(this.#connection, this.#replyTimeout, log)
    this.#ends = new PendingEnds({ timeout: replaceTimeout, log, ask: (bucket, pending) => this.#ask(bucket, pending) })
    // Buckets are not restated all at once.
    for (const bucket of this.#claims.buckets) bucket.restatedAt -= lease / 2 * bucket.number / this.#claims.buckets.length
    this.#ticking = setInterval(() => afterReading(() => this.#tick()), TICK_MS).unref()
  }

  /** Whether Redis does not answer, or refuses writes. */
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
    await this.#beat(this.#claims.buckets)
  }

  claim (clusterClaim: ClusterClaim): Promise<unknown> | undefined {
    const claim = this.#claims.add(clusterClaim, ++this.#lastNumber)
    const { bucket } = claim
    if (!this.#health.checkReachable(bucket)) return undefined
    // The first claim in a bucket makes a record there. Nobody must take the silence of this process for death.
    if (this.#hearing.isDeaf && bucket.newest.size === 1) this.#beat([bucket])
    return this.#sendClaim(claim, this.#onTime())
  }

  async #sendClaim (claim: RedisClaim, timing: Timing): Promise<void> {
    const { bucket } = claim
    const { round } = bucket
    claim.isSent = claim.isClaiming = true
    await this.#health.run([bucket], claimCommand(this.#sender, claim, timing), async (reply, sentAt) => {
      this.#clock.learn(reply.now, sentAt)
      if (reply.outcome === 'late') {
        if (this.#claims.isNewest(claim)) await this.#sendClaim(claim, this.#lateTiming(claim.madeAt))
        return
      }
      this.#noteOperations(bucket, reply.ops)
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
    if (claim !== undefined) this.#release(claim)
  }

  async evict (scope: string, tabId?: string): Promise<number> {
    const digest = digestOf(scope)
    const bucket = this.#claims.bucket(digest)
    const eviction = { digest, fields: tabId === undefined ? '' : fieldPrefix(tabId), token: 0 }
    if (!this.#health.checkReachable(bucket)) throw new FST_ERR_OCTA_STAR_EVICT('Redis is away')
    bucket.evictions.add(eviction)
    try {
      const asked = await this.#sendEviction(bucket, eviction, this.#onTime(), performance.now())
      if (asked === undefined) throw new FST_ERR_OCTA_STAR_EVICT('Redis does not answer')
      // Redis may have lost its data, and other processes may not have restated their claims yet. A new connection may be to a Redis that has restarted.
      const restatedIn = Math.max(bucket.lostAt, this.#readyAt) + RECORD_LEASE - performance.now()
      if (restatedIn > 0) {
        await new Promise(resolve => setTimeout(resolve, restatedIn))
        const restated = await this.#sendEviction(bucket, eviction, { at: eviction.token, tolerance: -1 }, 0)
        if (restated === undefined) throw new FST_ERR_OCTA_STAR_EVICT('Redis does not answer')
        const known = new Set(asked.map(nameOf))
        asked.push(...restated.filter(claim => !known.has(nameOf(claim))))
      }
      const gone = await this.#ends.wait(bucket, asked)
      if (gone < asked.length) throw new FST_ERR_OCTA_STAR_EVICT(`${asked.length - gone} of ${asked.length} streams in other processes were not gone within replaceTimeout`)
      return gone
    } finally {
      bucket.evictions.delete(eviction)
    }
  }

  /** Asks for the end of all claims that `eviction` concerns. Resolves to these claims, or to `undefined` if Redis does not answer. */
  async #sendEviction (bucket: Bucket, eviction: Eviction, timing: Timing, madeAt: number): Promise<Asked[] | undefined> {
    const asked = new Map<string, Asked>()
    let cursor = '0'
    do {
      const isAnswered = await this.#health.run([bucket], evictCommand(this.#sender, eviction.digest, eviction.fields, cursor, timing), (reply, sentAt) => {
        this.#clock.learn(reply.now, sentAt)
        if (reply.outcome === 'late') {
          timing = this.#lateTiming(madeAt)
          return
        }
        this.#noteOperations(bucket, reply.ops)
        eviction.token = reply.token
        timing = { at: reply.token, tolerance: -1 }
        cursor = reply.cursor
        // A cursor may return a field twice: https://redis.io/docs/latest/commands/scan/#scan-guarantees
        for (const claim of reply.asked) asked.set(nameOf(claim), claim)
      })
      if (!isAnswered) return undefined
    } while (cursor !== '0' || eviction.token === 0)
    return [...asked.values()]
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

  async leave (): Promise<void> {
    this.#hasLeft = true
    clearInterval(this.#ticking)
    this.#health.stop()
    for (const claim of this.#claims.clear()) claim.bucket.released.push(claim)
    await Promise.all(this.#claims.buckets.map(bucket => this.#sendReleased(bucket)))
    const present = this.#claims.buckets.filter(({ isAway }) => !isAway)
    await Promise.all(this.#byNode(present).map(buckets => this.#health.run(buckets, leaveCommand(this.#sender, buckets.map(({ number }) => number)), () => {})))
    this.#ends.giveUp()
    this.#connection.close()
  }

  onMessage (text: string): void {
    const message = parseMessage(text)
    this.#hearing.onMessage(message.type === 'beat' ? message.number : undefined)
    if (message.type === 'end') for (const name of message.claims) this.#onRequest(message.reason, message.digest, name)
    else if (message.type === 'gone') this.#ends.onGone(message.member, message.number)
  }

  /** Messages may have been lost: reads the state. */
  onReady (isReconnected = false): void {
    if (this.#connection.canSend && this.#connection.isSubscribed) this.#connected.resolve()
    if (isReconnected && this.#isJoined && this.#connection.countsReceivers) this.#readyAt = performance.now()
    if (this.#hasLeft || !this.#connection.canSend) return
    this.#ends.askSoon()
    this.#beat(this.#claims.buckets.filter(bucket => this.#isUsed(bucket)))
  }

  onDeaf (error: Error): void {
    this.#hearing.onDeaf(error)
    // Nobody must take the silence for death.
    if (!this.#hasLeft && this.#connection.canSend) this.#beat(this.#claims.buckets.filter(bucket => this.#isUsed(bucket) && !bucket.isAway))
  }

  // Periodic work.

  #tick (): void {
    if (this.#hasLeft) return
    const now = performance.now()
    const { isAway } = this.#health
    this.#hearing.check(isAway || !this.#connection.canSend)
    if (!this.#connection.canSend) return
    const { isDeaf } = this.#hearing
    const due = this.#claims.buckets.filter(bucket => {
      const interval = bucket.isAway ? PROBE_MS : isDeaf ? TICK_MS : BEAT_MS
      // A timer may be early by less than a millisecond.
      return this.#isUsed(bucket) && now - bucket.beatAt > interval - TICK_MS / 2
    })
    this.#beat(due)
    for (const bucket of this.#claims.buckets) {
      // The record of an unused bucket is not renewed. That the record expires is no loss.
      if (!this.#isUsed(bucket)) bucket.ops = 0
      if (bucket.newest.size > 0 && !bucket.isAway && now - bucket.restatedAt > this.#sender.lease / 2) this.#restate(bucket)
    }
  }

  #isUsed (bucket: Bucket): boolean {
    return bucket.isAway || bucket.newest.size > 0 || bucket.ending.size > 0 || bucket.evictions.size > 0
  }

  /** Renews the records of `buckets`, and learns what Redis has lost, whether Redis takes writes, and what was asked of this process. */
  async #beat (buckets: readonly Bucket[]): Promise<void> {
    // A beat without a reply stays in flight, and succeeds as soon as Redis answers.
    const idle = buckets.filter(({ isBeating }) => !isBeating)
    for (const bucket of buckets) bucket.mustBeatAgain = bucket.isBeating
    await Promise.all(this.#byNode(idle).map((group, i) => this.#beatNode(group, i === 0)))
  }

  async #beatNode (buckets: Bucket[], isFirst: boolean): Promise<void> {
    const beat = isFirst ? this.#hearing.nextBeat() : undefined
    const { isSubscribed } = this.#connection
    for (const bucket of buckets) {
      bucket.isBeating = true
      bucket.beatAt = performance.now()
    }
    const command = beatCommand(this.#sender, buckets.map(({ number }) => number), this.#hearing.isDeaf, beat)
    await this.#health.run(buckets, command, ({ now, records }, sentAt) => {
      this.#clock.learn(now, sentAt)
      if (beat !== undefined && isSubscribed) this.#hearing.onBeatSent(beat)
      if (this.#hasLeft) return
      for (const [i, bucket] of buckets.entries()) this.#onBeat(bucket, records[i]!)
      const away = buckets.filter(({ isAway }) => isAway)
      if (away.length > 0) this.#probe(away)
    }, {
      onSettled: () => {
        for (const bucket of buckets) bucket.isBeating = false
        const again = buckets.filter(({ mustBeatAgain }) => mustBeatAgain)
        if (!this.#hasLeft && this.#connection.canSend) this.#beat(again)
      }
    })
  }

  #onBeat (bucket: Bucket, { ops, requests }: BeatReply['records'][number]): void {
    // A record that did not exist is a loss if this process has counted operations there.
    if (Math.max(ops, 0) < bucket.ops) this.#onLost(bucket, Math.max(ops, 0))
    // A Redis that still knows what this process has counted there has not restarted.
    else if (bucket.ops > 0) this.#readyAt = -Infinity
    if (requests !== bucket.requested.size) this.#readRequests(bucket)
  }

  /** Redis has taken a beat for `buckets`, which are on one node. Redis may still refuse other commands, or the keys of a slot in migration. */
  #probe (buckets: Bucket[]): void {
    const beat = this.#hearing.nextBeat()
    const { isSubscribed } = this.#connection
    this.#health.run(buckets, probeCommand(this.#sender, buckets[0]!.number, beat), ({ now }, sentAt) => {
      this.#clock.learn(now, sentAt)
      if (isSubscribed) this.#hearing.onBeatSent(beat)
      if (this.#hasLeft) return
      for (const bucket of buckets) if (bucket.isAway) this.#onBack(bucket)
    })
  }

  #onBack (bucket: Bucket): void {
    this.#health.markBack(bucket)
    this.#sendReleased(bucket)
    // Claims were made that Redis does not know, and a round may have been broken off.
    this.#continueRound(bucket)
  }

  #noteOperations (bucket: Bucket, ops: number): void {
    if (ops <= bucket.ops) this.#onLost(bucket, ops)
    else bucket.ops = ops
  }

  /** Redis has lost data of `bucket`: tells Redis what this process knows. */
  #onLost (bucket: Bucket, ops: number): void {
    bucket.ops = ops
    bucket.requested.clear()
    // Without a Redis Cluster all buckets are on one server.
    for (const lost of this.#connection.countsReceivers ? this.#claims.buckets : [bucket]) lost.lostAt = performance.now()
    this.#restate(bucket)
    for (const eviction of bucket.evictions) {
      if (eviction.token > 0) this.#sendEviction(bucket, eviction, { at: eviction.token, tolerance: -1 }, 0)
    }
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
    else this.#release({ number, field, digest })
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
    const mayMiss = performance.now() - bucket.lostAt < RECORD_LEASE
    // Silence is a hint that a member is dead: a deaf member may not have had the time to write the record. A start may rely on the hint. An
    // eviction must not, because no evicted stream may be live once the eviction has resolved.
    const asked = pending.map(({ asked, isUnheard }) => ({ ...asked, isUnheard: isUnheard && asked.reason === 'replaced' && this.#connection.countsReceivers }))
    const { ops } = bucket
    this.#health.run([bucket], askCommand(this.#sender, bucket.number, ops, mayMiss, asked), reply => {
      if (reply.outcome === 'lost') {
        // Otherwise an earlier reply has told of the same loss.
        if (bucket.ops === ops) this.#onLost(bucket, 0)
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

  /** Claims that are released together are sent together, for example all claims at a shutdown. */
  #release (place: Place): void {
    this.#claims.bucket(place.digest).released.push(place)
    if (this.#isSendingReleased) return
    this.#isSendingReleased = true
    // After the promise callbacks that are due: whoever awaits the end of a stream in this process learns of the end before the successor opens.
    queueMicrotask(() => process.nextTick(() => {
      this.#isSendingReleased = false
      for (const bucket of this.#claims.buckets) this.#sendReleased(bucket)
    }))
  }

  async #sendReleased (bucket: Bucket): Promise<void> {
    while (bucket.released.length > 0 && this.#health.checkReachable(bucket)) {
      const page = bucket.released.splice(0, PAGE)
      if (!await this.#health.run([bucket], releaseCommand(this.#sender, bucket.number, page), () => {})) bucket.released.push(...page)
    }
  }

  /** Restates all claims of `bucket`, some at a time, bucket by bucket, so that neither Redis nor the event loop stalls. */
  #restate (bucket: Bucket): void {
    bucket.round++
    bucket.restatedAt = performance.now()
    this.#continueRound(bucket)
  }

  #continueRound (bucket: Bucket): void {
    const { round } = bucket
    this.#restating = this.#restating.then(() => this.#restateRound(bucket, round))
  }

  async #restateRound (bucket: Bucket, round: number): Promise<void> {
    // The time of a claim that was never sent is an estimate. After a standstill the last reply may have told an old time, so this
    // round begins with a new reply.
    for (const { token } of bucket.newest.values()) {
      if (token > 0) continue
      await this.#sendRestated(bucket, [])
      break
    }
    // Claims may come and go while this loop waits.
    const claims = bucket.newest.values()
    let page: RedisClaim[]
    do {
      if (bucket.round !== round || bucket.isAway || this.#hasLeft) return
      page = []
      for (const claim of claims) {
        if (claim.round === round || claim.isClaiming) continue
        claim.isSent = true
        claim.round = round
        // Not earlier: when the claim was made, the estimate of Redis's clock may have been wrong, see #lateTiming.
        if (claim.token === 0) claim.token = this.#timeOf(claim.madeAt)
        if (page.push(claim) === PAGE) break
      }
      if (page.length > 0) await this.#sendRestated(bucket, page)
    } while (page.length === PAGE)
  }

  async #sendRestated (bucket: Bucket, claims: RedisClaim[]): Promise<void> {
    const isAnswered = await this.#health.run([bucket], restateCommand(this.#sender, bucket.number, claims), ({ now, ops, ended }, sentAt) => {
      this.#clock.learn(now, sentAt)
      this.#noteOperations(bucket, ops)
      for (const { index, reason } of ended) this.#onRequest(reason, claims[index]!.digest, claims[index]!)
    })
    if (!isAnswered) for (const claim of claims) claim.round = 0
  }

  // Without a Redis Cluster all buckets are on one server, and one command serves all.
  #byNode (buckets: readonly Bucket[]): Bucket[][] {
    if (buckets.length === 0) return []
    return this.#connection.countsReceivers ? [[...buckets]] : buckets.map(bucket => [bucket])
  }

  #onTime (): Timing {
    return { at: this.#clock.isKnown ? this.#clock.now : 0, tolerance: this.#tolerance * 1000 }
  }

  /**
   * Redis says that a command made at `madeAt` came late. If this process's own stopwatch agrees, the command counts from
   * `madeAt`. Otherwise the estimate of Redis's clock was wrong, for example because the machine was suspended.
   */
  #lateTiming (madeAt: number): Timing {
    const elapsed = performance.now() - madeAt
    return elapsed > this.#tolerance ? { at: this.#timeOf(madeAt), tolerance: -1 } : { at: 0, tolerance: 0 }
  }

  /** What Redis's clock showed at `at`. Unit of `at`: milliseconds of `performance.now()`. */
  #timeOf (at: number): number {
    return Math.round(this.#clock.now - (performance.now() - at) * 1000)
  }
}

function nameOf ({ member, number }: Asked): string {
  return `${member} ${number}`
}
