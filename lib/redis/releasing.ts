// Tells Redis which claims are gone. If Redis is away, tells Redis later.
import type { Bucket, RedisClaims } from './claims.ts'
import type { RedisHealth } from './health.ts'
import { PAGE, releaseCommand, type Released, type Sender } from './protocol.ts'

export class Releasing {
  readonly #sender: Sender
  readonly #claims: RedisClaims
  readonly #health: RedisHealth
  #isDue = false

  constructor (sender: Sender, claims: RedisClaims, health: RedisHealth) {
    this.#sender = sender
    this.#claims = claims
    this.#health = health
  }

  /** Sends claims that are released together in a single command, for example all claims at a shutdown. */
  release (released: Released): void {
    this.#claims.bucket(released.digest).released.push(released)
    if (this.#isDue) return
    this.#isDue = true
    // After the promise callbacks that are due: whoever awaits the end of a stream in this process learns of the end before the successor opens.
    queueMicrotask(() => process.nextTick(() => {
      this.#isDue = false
      for (const bucket of this.#claims.buckets) this.send(bucket)
    }))
  }

  /** Sends what waits in `bucket`. Resolves when all is sent, or when Redis is away. */
  async send (bucket: Bucket): Promise<void> {
    while (bucket.released.length > 0 && this.#health.checkReachable(bucket)) {
      const page = bucket.released.splice(0, PAGE)
      if (!await this.#health.run([bucket], releaseCommand(this.#sender, bucket.number, page), () => {})) bucket.released.push(...page)
    }
  }
}
