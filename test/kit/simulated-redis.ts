// A simulated Redis, single or a Redis Cluster of three nodes, and the connections of simulated processes to that Redis, in virtual time.
import { SLOTS } from '../../lib/redis/protocol.ts'
import * as scripts from '../../lib/redis/scripts.ts'
import type { Script } from '../../lib/redis/scripts.ts'
import type { ConnectionListener, RedisConnection } from '../../lib/redis/connection.ts'
import type { Random } from './random.ts'
import { RedisModel } from './redis-model.ts'
import type { Owner, VirtualTime } from './virtual-time.ts'

// SEND writes only to tidy up, and does not mind if Redis refuses.
const READS: readonly Script[] = [scripts.COUNT, scripts.REQUESTS, scripts.SEND, scripts.REPLY]
/** How many nodes a simulated Redis Cluster has. */
const NODES = 3

interface Command {
  readonly script: Script
  readonly keys: string[]
  readonly args: Array<string | number>
  readonly node: Node
  /** Whether the server may be sent the script's digest alone. */
  readonly isDigest: boolean
  readonly resolve: (reply: unknown) => void
  readonly reject: (error: Error) => void
}

/** A server. */
class Node {
  readonly model: RedisModel
  scripts = new Set<Script>()
  isDown = false
  refusesWrites = false
  /** Buckets whose slot is being moved. */
  readonly awayBuckets = new Set<string>()
  /** Commands that wait because the server stands still. `undefined` while the server works. */
  stalled: Array<() => void> | undefined

  constructor (model: RedisModel) {
    this.model = model
  }

  /** @throws the error that the server replies to a command that the server refuses */
  check (script: Script, keys: string[]): void {
    if (this.isDown) throw new Error('Connection is closed.')
    if (this.awayBuckets.has(bucketOf(keys[0]!))) throw new Error('TRYAGAIN Multiple keys request during rehashing of slot')
    if (this.refusesWrites && !READS.includes(script)) throw new Error("READONLY You can't write against a read only replica.")
  }
}

function nameOf (script: Script): string {
  return Object.entries(scripts).find(([, each]) => each === script)![0]
}

function bucketOf (key: string): string {
  return /\{(.)\}/.exec(key)![1]!
}

export class SimulatedRedis {
  readonly isCluster: boolean
  readonly nodes: readonly Node[]
  readonly connections = new Set<SimulatedConnection>()
  /** Whether the network delays, loses and reorders. */
  isNoisy = false
  /** How many messages of a hundred are lost while the network is noisy. */
  loss = 0
  /** How many packets of a hundred take long while the network is noisy. */
  slowness = 0
  /** Logs every event. Set this to see how a seed fails. */
  trace: ((...what: unknown[]) => void) | undefined
  readonly time: VirtualTime
  readonly random: Random

  constructor (time: VirtualTime, random: Random, isCluster: boolean) {
    this.time = time
    this.random = random
    this.isCluster = isCluster
    // Microseconds, and never the same twice.
    let calls = 0
    const clock = () => (time.origin + time.now) * 1000 + calls++ % 1000
    this.nodes = Array.from({ length: isCluster ? NODES : 1 }, (_, node) => new Node(new RedisModel(clock, (channel, message) => this.#publish(node, channel, message))))
  }

  nodeOf (key: string): Node {
    return this.nodes[parseInt(bucketOf(key), 16) % this.nodes.length]!
  }

  /** How long a packet is under way, in milliseconds. Four slow packets, for a script that Redis does not know, take less than 1 s. */
  delay (): number {
    return this.isNoisy && this.random.chance(this.slowness) ? 100 + this.random.below(140) : 1 + this.random.below(8)
  }

  // A Redis Cluster hands each message on to every node, and counts the subscribers of the first.
  #publish (node: number, channel: string, message: string): number {
    const to = [...this.connections].find(connection => connection.listener.channel === channel)
    this.trace?.('message to', channel, message, to?.isKnownToRedis)
    if (to?.isKnownToRedis !== true) return 0
    if (!(this.isNoisy && this.random.chance(this.loss))) to.receive(message, this.delay(), this.nodes[node]!)
    return Number(!this.isCluster || to.node === node)
  }
}

export class SimulatedConnection implements RedisConnection {
  canSend = true
  isSubscribed = false
  /** Whether Redis counts the subscription among the receivers of a message. */
  isKnownToRedis = false
  /** Whether no new connection can be made. */
  isCutOff = false
  /** Until when Redis refuses to subscribe. */
  refusedUntil = 0
  /** Whether messages reach the process. The client does not know. */
  #delivers = false
  #isClosed = false
  // Changes with each subscription: a message of an earlier subscription is lost.
  #subscription = 0
  /** The node that the subscription is on. */
  node = 0
  readonly #redis: SimulatedRedis
  readonly #owner: Owner
  readonly listener: ConnectionListener
  readonly #inFlight = new Set<Command>()
  readonly #lastArrival = new Map<Node, number>()
  readonly #lastReply = new Map<Node, number>()
  readonly #lastMessage = new Map<Node, number>()

  constructor (redis: SimulatedRedis, owner: Owner, listener: ConnectionListener) {
    this.#redis = redis
    this.#owner = owner
    this.listener = listener
    redis.connections.add(this)
    this.#subscribeSoon(redis.delay())
  }

  get countsReceivers (): boolean { return !this.#redis.isCluster }
  nodeOf (slot: number): string | undefined {
    return this.#redis.isCluster ? `node${SLOTS.indexOf(slot) % NODES}` : undefined
  }

  get isHearing (): boolean { return this.isSubscribed && this.#delivers }

  async run (script: Script, keys: string[], args: Array<string | number>, isWanted?: () => boolean): Promise<unknown> {
    const known = script.isSentWhole === true ? undefined : await this.#send(script, keys, args, true) as { output: unknown } | undefined
    if (known !== undefined) return known.output
    if (isWanted?.() === false) return undefined
    return (await this.#send(script, keys, args, false) as { output: unknown }).output
  }

  resubscribe (): void {
    this.isSubscribed = false
    this.loseSubscription()
  }

  close (): void {
    this.#isClosed = true
    this.isSubscribed = this.isKnownToRedis = this.#delivers = false
    this.#redis.connections.delete(this)
  }

  #send (script: Script, keys: string[], args: Array<string | number>, isDigest: boolean): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (!this.canSend) return reject(new Error('Connection is closed.'))
      const command = { script, keys, args, node: this.#redis.nodeOf(keys[0]!), isDigest, resolve, reject }
      this.#inFlight.add(command)
      this.#transmit(command)
    })
  }

  // On one connection, a later packet does not arrive sooner. A command that was first sent to the wrong node of a Redis Cluster
  // may arrive after later commands.
  #transmit (command: Command): void {
    const { time, random, isCluster, isNoisy } = this.#redis
    const { node } = command
    if (this.isCutOff) {
      this.#reply(command, () => command.reject(new Error('Connection is closed.')))
      return
    }
    let arrival = Math.max(this.#lastArrival.get(node) ?? 0, time.now + this.#redis.delay())
    if (isCluster && isNoisy && random.chance(5)) arrival += random.below(30)
    else this.#lastArrival.set(node, arrival)
    time.after(arrival - time.now, () => this.#arrive(command))
  }

  #arrive (command: Command): void {
    const { script, keys, args, node, isDigest, resolve, reject } = command
    // The connection has ended, and the command with the connection.
    if (!this.#inFlight.has(command)) return
    if (node.stalled !== undefined) {
      node.stalled.push(() => this.#arrive(command))
      return
    }
    try {
      node.check(script, keys)
    } catch (error) {
      this.#redis.trace?.(nameOf(script), keys.join(' '), args.join(' '), '->', String(error))
      return this.#reply(command, () => reject(error as Error))
    }
    if (isDigest && !node.scripts.has(script)) return this.#reply(command, () => resolve(undefined))
    node.scripts.add(script)
    const output = node.model.run(script, keys, args)
    this.#redis.trace?.(nameOf(script), keys.join(' '), args.join(' '), '->', String(output))
    this.#reply(command, () => resolve({ output }))
  }

  #reply (command: Command, settle: () => void): void {
    const { time } = this.#redis
    const at = Math.max(this.#lastReply.get(command.node) ?? 0, time.now + this.#redis.delay())
    this.#lastReply.set(command.node, at)
    time.after(at - time.now, () => {
      if (this.#inFlight.delete(command)) this.#owner.run(settle)
    })
  }

  // Messages of one node travel on one connection, and keep their order. The order of messages between members does not matter except for
  // messages to streams, so the simulation reorders all other messages.
  receive (message: string, delay: number, from: Node): void {
    const subscription = this.#subscription
    const { time } = this.#redis
    if (/^(send|list) /.test(message)) {
      const arrival = Math.max(this.#lastMessage.get(from) ?? 0, time.now + delay)
      this.#lastMessage.set(from, arrival)
      delay = arrival - time.now
    }
    time.after(delay, () => {
      if (this.#subscription === subscription && this.#delivers) this.#owner.run(() => this.listener.onMessage(message))
    })
  }

  /**
   * The connections to `nodes` end. A client either fails the commands that still wait for a reply, or sends these commands once
   * more on the next connection. Returns what the next connection has to do first.
   */
  loseCommands (nodes: readonly Node[], sendsAgain: boolean): () => void {
    const lost = [...this.#inFlight].filter(({ node }) => nodes.includes(node))
    for (const command of lost) this.#inFlight.delete(command)
    const reject = () => { for (const { reject } of lost) this.#owner.run(() => reject(new Error('Connection is closed.'))) }
    if (!sendsAgain) reject()
    return () => {
      if (!sendsAgain) return
      for (const command of lost) {
        const again = { ...command }
        this.#inFlight.add(again)
        this.#transmit(again)
      }
    }
  }

  /** The application's client has lost its connection. */
  disconnect (): void {
    // A process that stands still first reads the replies that came before.
    this.#owner.run(() => { this.canSend = false })
  }

  /** The application's client has connected again. */
  reconnect (delay: number): void {
    this.#redis.time.after(delay, () => this.#owner.run(() => {
      if (this.#isClosed || this.isCutOff) return
      this.canSend = true
      this.listener.onReady()
    }))
  }

  /** The subscription's connection ends, and the client knows. The client subscribes again. */
  loseSubscription (): void {
    if (this.#isClosed) return
    this.#subscription++
    this.isKnownToRedis = this.#delivers = false
    const subscription = this.#subscription
    const onClose = () => {
      if (this.#isClosed || this.#subscription !== subscription) return
      this.isSubscribed = false
      this.listener.onDeaf(new Error('the connection of the subscription has ended'))
    }
    // Calls back in a later task, because the member itself caused the end of the subscription.
    this.#redis.time.after(0, onClose, this.#owner)
    this.#subscribeSoon(1 + this.#redis.random.below(100))
  }

  /** From now on messages do not arrive. Neither the client nor Redis knows. */
  loseMessages (): void {
    this.#delivers = false
  }

  // Tries again later and later, like the connection of the adapter.
  #subscribeSoon (delay: number, next = 100): void {
    const subscription = this.#subscription
    const { time, nodes, random } = this.#redis
    time.after(delay, () => this.#owner.run(() => {
      if (this.#isClosed || this.#subscription !== subscription) return
      const node = random.below(nodes.length)
      if (nodes[node]!.isDown || this.isCutOff) return this.#subscribeSoon(next, 2 * next)
      if (time.now < this.refusedUntil) {
        this.listener.onDeaf(new Error('NOPERM this user has no permissions to access one of the channels used as arguments'))
        return this.#subscribeSoon(next, 2 * next)
      }
      this.node = node
      this.isKnownToRedis = this.#delivers = true
      // The process learns from Redis's reply that the subscription is there.
      time.after(this.#redis.delay(), () => this.#owner.run(() => {
        if (this.#subscription !== subscription || this.#isClosed) return
        this.isSubscribed = true
        this.listener.onReady()
      }))
    }))
  }
}
