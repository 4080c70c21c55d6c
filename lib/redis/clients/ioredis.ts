// Clients of ioredis and of the fork iovalkey: a single server, Sentinel, or a Redis Cluster.
import { setTimeout as pause } from 'node:timers/promises'
import type { RedisDriver, SubscribeRequest } from '../connection.ts'

/** The part of a client of `ioredis` or `iovalkey` that tells the kind of the client. */
export interface IoredisClient {
  readonly status: string
  readonly isCluster?: boolean
  createBuiltinCommand (name: string): { string: any, buffer: any }
  duplicate (...overrides: any[]): IoredisClient
  connect (): Promise<void>
  disconnect (reconnect?: boolean): void
  on (event: string, listener: (...args: any[]) => void): unknown
  off (event: string, listener: (...args: any[]) => void): unknown
}

interface Subscriber extends IoredisClient {
  subscribe (channel: string): Promise<unknown>
}

interface ClusterClient extends IoredisClient {
  /** For each slot the addresses of the nodes that have the slot, the master first. */
  readonly slots: ReadonlyArray<readonly string[] | undefined>
  nodes (role: 'master'): IoredisClient[]
}

type Call = (...args: Array<string | number>) => Promise<unknown>

// Options of the application's client that must not hold for our connection. https://redis.github.io/ioredis/interfaces/CommonRedisOptions.html
const SUBSCRIBER_OPTIONS = {
  // The driver connects and subscribes, and a new connection follows a broken connection.
  lazyConnect: true,
  retryStrategy: null,
  reconnectOnError: null,
  // The check sends INFO, which the user may not be allowed to send. Redis takes SUBSCRIBE even while Redis is loading its data.
  enableReadyCheck: false,
  // These would end the wait for SUBSCRIBE, and a connection that receives nothing for a while.
  commandTimeout: undefined,
  socketTimeout: undefined,
  // ioredis puts the prefix before channels as well, and scripts publish on channels without a prefix:
  // https://github.com/redis/ioredis#transparent-key-prefixing
  keyPrefix: '',
  readOnly: false
}

const POLL_MS = 50

export function isIoredisClient (client: any): client is IoredisClient {
  return typeof client?.createBuiltinCommand === 'function' && typeof client.duplicate === 'function'
}

export class IoredisDriver implements RedisDriver {
  readonly #client: IoredisClient
  readonly #scripts: Record<'EVAL' | 'EVALSHA', Call>

  constructor (client: IoredisClient) {
    this.#client = client
    // A command made by createBuiltinCommand is never pipelined automatically. With `enableAutoPipelining`, iovalkey chooses
    // the node of a Redis Cluster by the script's digest instead of the key: https://github.com/redis/ioredis#autopipelining
    const command = (name: string): Call => client.createBuiltinCommand(name).buffer.bind(client)
    this.#scripts = { EVAL: command('eval'), EVALSHA: command('evalsha') }
    // A client with `lazyConnect` connects at the first command: https://redis.github.io/ioredis/interfaces/CommonRedisOptions.html#lazyConnect
    // The member sends a command only if the client is connected, so connect now. The client emits the errors.
    if (client.status === 'wait') client.connect().catch(() => {})
  }

  get canSend (): boolean {
    return this.#client.status === 'ready'
  }

  get countsReceivers (): boolean {
    return this.#client.isCluster !== true
  }

  nodeOf (slot: number): string | undefined {
    return this.countsReceivers ? undefined : (this.#client as ClusterClient).slots[slot]?.[0]
  }

  async callScript (command: 'EVAL' | 'EVALSHA', script: string, keys: string[], args: Array<string | number>): Promise<unknown> {
    try {
      return toValue(await this.#scripts[command](script, keys.length, ...keys, ...args))
    } catch (error) {
      // ioredis adds the whole command to the error. The arguments may contain an event of the application, and the error will be logged.
      delete (error as { command?: unknown }).command
      throw error
    }
  }

  watchReady (listener: () => void): () => void {
    this.#client.on('ready', listener)
    return () => { this.#client.off('ready', listener) }
  }

  async subscribe ({ channel, signal, onMessage, onLost }: SubscribeRequest): Promise<void> {
    const node = await this.#nodeToHear(signal)
    signal.throwIfAborted()
    const subscriber = node.duplicate(SUBSCRIBER_OPTIONS) as Subscriber
    // The 'error' event says why, for example ECONNREFUSED. The rejection of `connect` only says that the connection is closed.
    let cause: Error | undefined
    subscriber.on('error', error => { cause = error })
    subscriber.on('close', () => onLost(cause ?? new Error('the connection of the subscription was closed')))
    subscriber.on('message', (_channel: string, message: string) => onMessage(message))
    signal.addEventListener('abort', () => subscriber.disconnect())
    await subscriber.connect()
    await subscriber.subscribe(channel)
  }

  close (): void {}

  /** The client whose server the subscription goes to. In a Redis Cluster, waits until the client knows the nodes. */
  async #nodeToHear (signal: AbortSignal): Promise<IoredisClient> {
    const client = this.#client
    if (client.isCluster !== true) return client
    // Every node delivers every message, so one connection to one node is enough. A Cluster client would not tell when the
    // connection of its subscription breaks. Ordinary pub/sub, because sharded pub/sub needs Redis 7 and a connection to
    // every shard: https://redis.io/docs/latest/develop/pubsub/#sharded-pubsub
    for (;;) {
      const nodes = (client as ClusterClient).nodes('master')
      if (nodes.length > 0) return nodes[Math.floor(Math.random() * nodes.length)]!
      signal.throwIfAborted()
      await pause(POLL_MS, undefined, { ref: false })
    }
  }
}

/**
 * Turns the reply of a command that asks for Buffers into strings, numbers, arrays and `null`. In such a reply every string of
 * Redis is a Buffer, so a JavaScript string is an integer that the option `stringNumbers` made a string.
 */
function toValue (reply: unknown): unknown {
  if (Buffer.isBuffer(reply)) return reply.toString()
  if (typeof reply === 'string') return Number(reply)
  return Array.isArray(reply) ? reply.map(toValue) : reply
}
