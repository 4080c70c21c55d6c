// A member's two connections: the application's client for commands, and one of our own for the subscription.
import type { Member } from './member.ts'
import type { Script } from './scripts.ts'

/** What a member needs of Redis. */
export interface Link {
  /** Whether a command that is sent now has a connection to go by. */
  readonly sends: boolean
  /** Whether the member's channel is subscribed to, as far as is known. */
  readonly hears: boolean
  /** Whether PUBLISH returns how many heard it: in a Redis Cluster it counts those on one node alone. */
  readonly countsHearers: boolean
  /** `stillWanted` is asked where the script has to be sent again, behind what was sent in the meantime. */
  run (script: Script, keys: string[], args: Array<string | number>, stillWanted?: () => boolean): Promise<unknown>
  publish (channel: string, message: string): Promise<number>
  /** Subscribes on a new connection: this one is deaf. */
  resubscribe (): void
  close (): void
}

/** What is used of a client of `ioredis` or `iovalkey`, a Redis Cluster's or a single server's. */
export interface RedisClient {
  readonly status: string
  readonly isCluster?: boolean
  duplicate (...overrides: any[]): RedisClient
  evalsha (sha: string, keys: number, ...args: Array<string | number>): Promise<unknown>
  eval (lua: string, keys: number, ...args: Array<string | number>): Promise<unknown>
  publish (channel: string, message: string): Promise<number>
  subscribe (channel: string): Promise<unknown>
  disconnect (reconnect?: boolean): void
  on (event: string, listener: (...args: any[]) => void): unknown
  off (event: string, listener: (...args: any[]) => void): unknown
}

// Whatever the application chose for its own: a member that never subscribes again would be deaf for good.
const SUBSCRIBER = {
  keyPrefix: '',
  lazyConnect: false,
  maxRetriesPerRequest: null,
  autoResubscribe: false,
  retryStrategy: (times: number) => Math.min(times * 100, 2_000)
}

export class RedisLink implements Link {
  hears = false
  readonly #redis: RedisClient
  readonly #subscriber: RedisClient
  readonly #member: Member
  readonly #onReady = () => this.#member.returned()

  constructor (redis: RedisClient, member: Member) {
    this.#redis = redis
    this.#member = member
    redis.on('ready', this.#onReady)
    // Plain PUBLISH, not the sharded one: that needs Redis 7, and a connection to every shard.
    this.#subscriber = redis.isCluster === true ? redis.duplicate() : redis.duplicate(SUBSCRIBER)
    this.#subscriber.on('ready', () => this.#subscribe())
    this.#subscriber.on('close', () => { this.hears = false })
    // It tries again by itself; what is to be said of it the member says.
    this.#subscriber.on('error', () => {})
    this.#subscriber.on('message', (_channel: string, message: string) => member.heard(message))
  }

  get sends (): boolean {
    // A client that is made with `lazyConnect` connects at its first command.
    return this.#redis.status === 'ready' || this.#redis.status === 'wait'
  }

  get countsHearers (): boolean {
    return this.#redis.isCluster !== true
  }

  async run ({ sha, lua }: Script, keys: string[], args: Array<string | number>, stillWanted?: () => boolean): Promise<unknown> {
    try {
      return await this.#redis.evalsha(sha, keys.length, ...keys, ...args)
    } catch (error) {
      // The first time, and after each restart of Redis.
      if (!(error instanceof Error) || !error.message.startsWith('NOSCRIPT')) throw error
      if (stillWanted?.() === false) return undefined
      return await this.#redis.eval(lua, keys.length, ...keys, ...args)
    }
  }

  publish (channel: string, message: string): Promise<number> {
    return this.#redis.publish(channel, message)
  }

  resubscribe (): void {
    this.hears = false
    this.#subscriber.disconnect(true)
  }

  close (): void {
    this.#redis.off('ready', this.#onReady)
    this.#subscriber.disconnect()
  }

  async #subscribe (): Promise<void> {
    try {
      await this.#subscriber.subscribe(this.#member.channel)
    } catch {
      // The connection broke again: the next `ready` comes.
      return
    }
    this.hears = true
    this.#member.returned()
  }
}
