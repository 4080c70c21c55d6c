// The connections to Redis: the application's client sends commands, and a duplicate of the client receives messages.
import type { Script } from './scripts.ts'

/** What a member needs of Redis. */
export interface RedisConnection {
  /** Whether a command sent now has a connection to travel on. */
  readonly canSend: boolean
  /** Whether the member's channel is subscribed to, as far as the client knows. */
  readonly isSubscribed: boolean
  /**
   * Whether PUBLISH returns the number of all receivers. In a Redis Cluster PUBLISH counts the receivers of a single node:
   * https://redis.io/docs/latest/commands/publish/
   */
  readonly countsReceivers: boolean
  /**
   * Runs `script` and resolves to the script's output. If Redis does not know the script, sends the script whole, behind
   * commands sent in the meantime. If `isWanted` then returns `false`, resolves to `undefined` instead.
   */
  run (script: Script, keys: string[], args: Array<string | number>, isWanted?: () => boolean): Promise<unknown>
  /** Resolves to the number of receivers, see `countsReceivers`. */
  publish (channel: string, message: string): Promise<number>
  /** Subscribes on a new connection, because the present connection delivers nothing. */
  resubscribe (): void
  close (): void
}

/** What a connection reports, and to which channel the connection subscribes. */
export interface ConnectionListener {
  readonly channel: string
  /** Called with each message on `channel`. */
  onMessage (message: string): void
  /** Called when commands can be sent again, and when `channel` is subscribed to again. Messages may have been lost before. */
  onReady (): void
}

/** The part of a client of `ioredis` or `iovalkey` that the adapter uses, for a single server or a Redis Cluster. */
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

// Overrides options of the application that could end reconnection: without a subscription a member never again receives a
// message. The connection subscribes on every 'ready', so ioredis must not. https://github.com/redis/ioredis#auto-reconnect
// `keyPrefix` is for keys, and scripts publish on channels without a prefix: https://github.com/redis/ioredis#transparent-key-prefixing
const SUBSCRIBER_OPTIONS = {
  keyPrefix: '',
  lazyConnect: false,
  maxRetriesPerRequest: null,
  autoResubscribe: false,
  retryStrategy: (times: number) => Math.min(times * 100, 2_000)
}

/** A connection by a client of `ioredis` or `iovalkey`. */
export class IoredisConnection implements RedisConnection {
  isSubscribed = false
  readonly #client: RedisClient
  readonly #subscriber: RedisClient
  readonly #listener: ConnectionListener
  readonly #onReady = () => this.#listener.onReady()

  constructor (client: RedisClient, listener: ConnectionListener) {
    this.#client = client
    this.#listener = listener
    client.on('ready', this.#onReady)
    // Ordinary pub/sub, because sharded pub/sub needs Redis 7 and a connection to every shard:
    // https://redis.io/docs/latest/develop/pubsub/#sharded-pubsub
    this.#subscriber = client.isCluster === true ? client.duplicate() : client.duplicate(SUBSCRIBER_OPTIONS)
    this.#subscriber.on('ready', () => this.#subscribe())
    this.#subscriber.on('close', () => { this.isSubscribed = false })
    // ioredis reconnects after an error. RedisHealth logs the outage once.
    this.#subscriber.on('error', () => {})
    this.#subscriber.on('message', (_channel: string, message: string) => listener.onMessage(message))
  }

  get canSend (): boolean {
    // A client created with `lazyConnect` waits, and connects at the first command: https://github.com/redis/ioredis#connection-events
    return this.#client.status === 'ready' || this.#client.status === 'wait'
  }

  get countsReceivers (): boolean {
    return this.#client.isCluster !== true
  }

  async run ({ sha, lua }: Script, keys: string[], args: Array<string | number>, isWanted?: () => boolean): Promise<unknown> {
    try {
      return await this.#client.evalsha(sha, keys.length, ...keys, ...args)
    } catch (error) {
      // Redis does not know a script before the first EVAL, nor after a restart: https://redis.io/docs/latest/develop/programmability/eval-intro/#script-cache
      if (!(error instanceof Error) || !error.message.startsWith('NOSCRIPT')) throw error
      if (isWanted?.() === false) return undefined
      return await this.#client.eval(lua, keys.length, ...keys, ...args)
    }
  }

  publish (channel: string, message: string): Promise<number> {
    return this.#client.publish(channel, message)
  }

  resubscribe (): void {
    this.isSubscribed = false
    this.#subscriber.disconnect(true)
  }

  close (): void {
    this.#client.off('ready', this.#onReady)
    this.#subscriber.disconnect()
  }

  async #subscribe (): Promise<void> {
    try {
      await this.#subscriber.subscribe(this.#listener.channel)
    } catch {
      // The connection broke again. The next 'ready' subscribes.
      return
    }
    this.isSubscribed = true
    this.#listener.onReady()
  }
}
