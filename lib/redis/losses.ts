// Whether Redis has lost data: each script that changes something for this process counts, and a smaller count than before shows a loss.
import type { Bucket } from './claims.ts'
import type { RedisConnection } from './connection.ts'
import { RECORD_LEASE } from './protocol.ts'

/**
 * The longest pause of a client between two attempts to connect. Unit: milliseconds. With default options ioredis 6 pauses for 5.2 s at
 * most, and no other client pauses longer: https://github.com/redis/ioredis#auto-reconnect
 */
const LONGEST_PAUSE = 5_200

export class Losses {
  readonly #connection: RedisConnection
  readonly #buckets: readonly Bucket[]
  readonly #onLost: (bucket: Bucket) => void
  // By when the clients of all processes try to connect again after the last outage. Unit: milliseconds of `performance.now()`.
  #allReconnectBy = -Infinity
  #mayHaveRestarted = false

  /** Calls `onLost` with each bucket that has lost data. */
  constructor (connection: RedisConnection, buckets: readonly Bucket[], onLost: (bucket: Bucket) => void) {
    this.#connection = connection
    this.#buckets = buckets
    this.#onLost = onLost
  }

  /** A script has counted an operation in `bucket`, and has returned the new count. */
  onCounted (bucket: Bucket, ops: number): void {
    if (ops <= bucket.ops) this.onLost(bucket, ops)
    else bucket.ops = ops
  }

  /**
   * A script has read the count, or -1 if the record did not exist: that is a loss if this process has counted operations there.
   * `known` is the count that this process knew when the script was sent. A later count may have been learned before this reply.
   */
  onRead (bucket: Bucket, ops: number, known: number): void {
    if (Math.max(ops, 0) < Math.min(known, bucket.ops)) this.onLost(bucket, Math.max(ops, 0))
    // A Redis that still knows what this process has counted there has not restarted.
    else if (bucket.ops > 0) this.#mayHaveRestarted = false
  }

  onLost (bucket: Bucket, ops: number): void {
    bucket.ops = ops
    bucket.requested.clear()
    // Without a Redis Cluster all buckets are on one server.
    for (const lost of this.#connection.countsReceivers ? this.#buckets : [bucket]) lost.lostAt = Math.max(performance.now(), this.#allReconnectBy)
    this.#onLost(bucket)
  }

  /**
   * A new connection may be to a Redis that has restarted. `outage` is how long the client was disconnected, in milliseconds. A client
   * waits longer after each failed attempt to connect, so another client may connect later than this client, by the length of the outage.
   */
  onReconnected (outage: number): void {
    if (!this.#connection.countsReceivers) return
    this.#allReconnectBy = Math.max(this.#allReconnectBy, performance.now() + Math.min(outage, LONGEST_PAUSE))
    this.#mayHaveRestarted = true
  }

  /** Whether Redis has lost data so recently that a missing record or request does not mean that a claim is gone. */
  mayMiss (bucket: Bucket): boolean {
    return performance.now() - bucket.lostAt < RECORD_LEASE
  }

  /** In how many milliseconds all processes have restated their claims, if Redis may have lost data. Not positive if Redis has not. */
  restatedIn (bucket: Bucket): number {
    return Math.max(bucket.lostAt, this.#mayHaveRestarted ? this.#allReconnectBy : -Infinity) + RECORD_LEASE - performance.now()
  }
}
