// Clients of the package `redis` (node-redis 5 and 6): createClient, createCluster, createSentinel and createClientPool.
import { setTimeout as pause } from 'node:timers/promises'
import type { RedisDriver, SubscribeRequest } from '../connection.ts'

/** The part of a client of `redis` that tells what it is. */
export interface NodeRedisClient {
  readonly isOpen: boolean
  withTypeMapping (mapping: {}): unknown
  connect (): Promise<unknown>
  destroy (): unknown
  on (event: string, listener: (...args: any[]) => void): unknown
  off (event: string, listener: (...args: any[]) => void): unknown
}

/** Sends commands: a client of any kind. A cluster of node-redis 5, and a pool, do not have `isReady`. */
interface Commands extends NodeRedisClient {
  readonly isReady?: boolean
  withTypeMapping (mapping: {}): Commands
  eval (lua: string, options: ScriptOptions): Promise<unknown>
  evalSha (sha: string, options: ScriptOptions): Promise<unknown>
}

interface ScriptOptions {
  readonly keys: string[]
  readonly arguments: string[]
}

/** The client of one connection. */
interface SingleClient extends Commands {
  readonly options?: { readonly socket?: object }
  duplicate (overrides: object): SingleClient
  subscribe (channel: string, listener: (message: string) => void): Promise<void>
}

interface ClusterClient extends Commands {
  readonly slots: ReadonlyArray<{ readonly master: { readonly address: string } } | undefined>
  readonly masters: readonly object[]
  nodeClient (node: object): SingleClient | Promise<SingleClient>
}

interface SentinelClient extends Commands {
  readonly _keyPrefix?: string
  _execute<T> (isReadonly: boolean, task: (master: SingleClient) => Promise<T>): Promise<T>
}

interface PoolClient extends Commands {
  readonly _keyPrefix?: string
  execute<T> (task: (client: SingleClient) => T): Promise<T>
}

// Options of the application's client that must not hold for a connection of our own:
// https://github.com/redis/node-redis/blob/master/docs/client-configuration.md
const OWN_OPTIONS = {
  commandOptions: undefined,
  disableOfflineQueue: false,
  commandsQueueMaxLength: undefined,
  clientSideCache: undefined,
  emitInvalidate: false,
  maintNotifications: 'disabled'
}

const POLL_MS = 50
const RECONNECT_MS = 100

export function isNodeRedisClient (client: any): client is NodeRedisClient {
  return typeof client?.withTypeMapping === 'function' && typeof client.evalSha === 'function' && typeof client.isOpen === 'boolean'
}

/**
 * Never calls `connect()` on the application's client, because node-redis rejects a second call. The driver waits until the
 * application has connected the client.
 */
export class NodeRedisDriver implements RedisDriver {
  readonly #client: NodeRedisClient
  // What sends commands, with the default type mapping: the application's client, or a connection of our own.
  #commands: Commands | undefined
  /** A client of the pool. Each connection of our own copies its options. */
  #member: SingleClient | undefined
  #isClosed = false
  // One controller for each connection of our own. The abort destroys the connection and removes the controller. A signal of
  // AbortSignal.any() with a long-lived source would keep the connection for ever: https://github.com/nodejs/node/issues/64476
  readonly #connections = new Set<AbortController>()
  readonly #readyListeners = new Set<() => void>()
  // A master that does not answer keeps its connections. https://github.com/redis/node-redis/blob/master/docs/sentinel.md#sentinel-client-api
  readonly #onTopologyChange = ({ type }: { type: string }) => {
    if (type === 'MASTER_CHANGE') this.#abortConnections()
  }

  readonly #onReady = () => { for (const listener of this.#readyListeners) listener() }

  constructor (client: NodeRedisClient) {
    this.#client = client
    if (isPool(client) || isSentinel(client)) {
      client.on('topology-change', this.#onTopologyChange)
      this.#keepOwnConnection(client)
    } else {
      this.#sendThrough(client as Commands)
      // A client of one connection emits 'ready'. A cluster emits 'connect', since node-redis 6.
      client.on('ready', this.#onReady)
      client.on('connect', this.#onReady)
    }
  }

  get canSend (): boolean {
    return this.#commands !== undefined && (this.#commands.isReady ?? this.#commands.isOpen)
  }

  get countsReceivers (): boolean {
    return !isCluster(this.#client)
  }

  nodeOf (slot: number): string | undefined {
    return isCluster(this.#client) ? this.#client.slots[slot]?.master.address : undefined
  }

  async callScript (command: 'EVAL' | 'EVALSHA', script: string, keys: string[], args: Array<string | number>): Promise<unknown> {
    const commands = this.#connected()
    const options = { keys, arguments: args.map(String) }
    return command === 'EVAL' ? await commands.eval(script, options) : await commands.evalSha(script, options)
  }

  watchReady (listener: () => void): () => void {
    this.#readyListeners.add(listener)
    return () => { this.#readyListeners.delete(listener) }
  }

  async subscribe ({ channel, signal, onMessage, onLost }: SubscribeRequest): Promise<void> {
    const node = await this.#borrow(signal)
    signal.throwIfAborted()
    const connection = this.#addConnection()
    signal.addEventListener('abort', () => connection.abort())
    const subscriber = duplicate(node, connection.signal)
    // Without a listener for 'error' the process would end: https://github.com/redis/node-redis#events
    subscriber.on('error', onLost)
    subscriber.on('end', () => onLost(new Error('the connection of the subscription was closed')))
    await subscriber.connect()
    await subscriber.subscribe(channel, onMessage)
  }

  close (): void {
    this.#client.off('ready', this.#onReady)
    this.#client.off('connect', this.#onReady)
    this.#client.off('topology-change', this.#onTopologyChange)
    this.#isClosed = true
    this.#abortConnections()
  }

  #addConnection (): AbortController {
    const connection = new AbortController()
    this.#connections.add(connection)
    connection.signal.addEventListener('abort', () => this.#connections.delete(connection))
    return connection
  }

  #abortConnections (): void {
    for (const connection of this.#connections) connection.abort()
  }

  #connected (): Commands {
    if (this.#commands === undefined) throw new Error('the client must be connected to Redis, and is not')
    return this.#commands
  }

  #sendThrough (commands: Commands): void {
    // Strings as strings and integers as numbers, whatever type mapping the application's client has:
    // https://github.com/redis/node-redis/blob/master/docs/RESP.md#type-mapping
    this.#commands = commands.withTypeMapping({})
  }

  /**
   * Keeps a connection of our own for commands, beside a pool or a Sentinel client. Both lend a connection to each command, so
   * a command could overtake an earlier command, and the protocol relies on the order. The connection never reconnects: after
   * a break, a new connection goes to the server that is the master by then.
   */
  async #keepOwnConnection (client: PoolClient | SentinelClient): Promise<void> {
    while (!this.#isClosed) {
      const connection = this.#addConnection()
      const { signal } = connection
      try {
        // Both put their prefix before keys themselves, so the clients of their connections do not know the prefix.
        const own = duplicate(await this.#borrow(signal), signal, { keyPrefix: client._keyPrefix })
        const lost = new Promise<void>(resolve => { for (const event of ['error', 'end']) own.on(event, () => resolve()) })
        // A client that is destroyed while it connects may never settle.
        await Promise.race([own.connect(), lost])
        if (own.isReady) {
          this.#sendThrough(own)
          this.#onReady()
          await lost
        }
      } catch {
        // RedisHealth reports that commands cannot be sent.
      }
      // An error may have left the connection open.
      connection.abort()
      this.#commands = undefined
      await pause(RECONNECT_MS, undefined, { ref: false })
    }
  }

  /** A connected client of one node, for {@link duplicate}. Waits until the application has connected its client. */
  async #borrow (signal: AbortSignal): Promise<SingleClient> {
    const client = this.#client
    if (!isCluster(client) && !isPool(client) && !isSentinel(client)) return client as SingleClient
    // A cluster of node-redis 5 is open before it knows the nodes.
    while (!client.isOpen || client.isReady === false || (isCluster(client) && client.masters.length === 0)) {
      await pause(POLL_MS, undefined, { ref: false })
      signal.throwIfAborted()
    }
    // Kept, because later all clients of the pool may be busy, for example with BLPOP.
    if (isPool(client)) {
      this.#member ??= await client.execute(member => member)
      return this.#member
    }
    // No other method tells with which options, such as TLS and the password, a Sentinel client connects to the master.
    if (isSentinel(client)) return await client._execute(false, async master => master)
    // Every node of a Redis Cluster delivers every message, so one connection to one node is enough. Ordinary pub/sub, because
    // sharded pub/sub needs Redis 7: https://redis.io/docs/latest/develop/pubsub/#sharded-pubsub
    return await client.nodeClient(client.masters[Math.floor(Math.random() * client.masters.length)]!)
  }
}

function isCluster (client: NodeRedisClient): client is ClusterClient {
  return 'nodeClient' in client
}

function isPool (client: NodeRedisClient): client is PoolClient {
  return 'execute' in client
}

function isSentinel (client: NodeRedisClient): client is SentinelClient {
  return 'acquire' in client
}

/**
 * A new client for one connection to the same node, which is destroyed when `signal` aborts. It does not reconnect. A quiet
 * connection must not time out, so `socketTimeout` is turned off.
 */
function duplicate (client: SingleClient, signal: AbortSignal, options: object = {}): SingleClient {
  const copy = client.duplicate({ ...OWN_OPTIONS, ...options, socket: { ...client.options?.socket, socketTimeout: undefined, reconnectStrategy: false } })
  // node-redis 5 cannot stop a connection that is still being made, so this waits for the connection.
  let isConnected = false
  const destroy = () => { if (signal.aborted && isConnected && copy.isOpen) copy.destroy() }
  copy.on('connect', () => {
    isConnected = true
    destroy()
  })
  signal.addEventListener('abort', destroy)
  return copy
}
