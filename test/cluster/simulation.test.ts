// The protocol in virtual time: 10,000 seeds of loss, delay, reordering, halts, a Redis that forgets, and death.
import { setImmediate as turn } from 'node:timers/promises'
import FakeTimers from '@sinonjs/fake-timers'
import t from 'tap'
import { defaults } from '../../lib/options.ts'
import type { ConnectionListener, RedisConnection } from '../../lib/redis/connection.ts'
import { Member } from '../../lib/redis/member.ts'
import type { Script } from '../../lib/redis/scripts.ts'
import { Registry } from '../../lib/registry/registry.ts'
import { streamKey } from '../../lib/registry/stream-key.ts'
import type { CloseReason, Holder } from '../../lib/index.ts'
import { memoryLog } from '../kit/memory-log.ts'
import { Random } from '../kit/random.ts'
import { RedisModel } from '../kit/redis-model.ts'
import { repeatWith, seed as firstSeed } from '../kit/seed.ts'

const SEEDS = 10_000
const LEASE = 4_000
const REPLACE_TIMEOUT = 1_000
const FAULTS_UNTIL = 3_000
// Stops only a test that hangs: a seed takes a few milliseconds.
t.setTimeout(300_000 + SEEDS * 200)

// How much later than it was made a claim may count as made: what latency and a short halt can turn round.
const UNORDERED = 1_300

class SimulatedConnection implements RedisConnection {
  canSend = true
  isSubscribed = true
  readonly countsReceivers = true
  dead = false
  halted = false
  #lastArrival = 0
  #backlog: Array<() => void> = []
  readonly world: World
  readonly member: ConnectionListener

  constructor (world: World, member: ConnectionListener) {
    this.world = world
    this.member = member
  }

  async run (script: Script, keys: string[], args: Array<string | number>, isWanted?: () => boolean): Promise<unknown> {
    const { world } = this
    const known = await this.#roundTrip(() => world.scripts.has(script) ? { reply: world.redis.run(script, keys, args) } : undefined)
    if (known !== undefined) return known.reply
    if (isWanted?.() === false) return undefined
    return await this.#roundTrip(() => {
      world.scripts.add(script)
      return world.redis.run(script, keys, args)
    })
  }

  publish (channel: string, message: string): Promise<number> {
    return this.#roundTrip(() => this.world.publish(channel, message))
  }

  // One connection: what is sent later does not arrive sooner.
  #roundTrip<T> (execute: () => T): Promise<T> {
    return new Promise((resolve, reject) => {
      if (!this.canSend) return reject(new Error('no connection'))
      this.#lastArrival = Math.max(this.#lastArrival, performance.now() + this.world.delay())
      setTimeout(() => this.#arrive(() => {
        if (this.dead) return
        if (this.world.down) return reject(new Error('connection lost'))
        const reply = execute()
        setTimeout(() => this.#arrive(() => resolve(reply)), this.world.delay())
      }), this.#lastArrival - performance.now())
    })
  }

  #arrive (what: () => void): void {
    if (this.halted) this.#backlog.push(what)
    else what()
  }

  resume (): void {
    this.halted = false
    for (const what of this.#backlog.splice(0)) what()
  }

  back (): void {
    if (this.dead) return
    this.canSend = this.isSubscribed = true
    this.member.onReady()
  }

  resubscribe (): void { this.back() }
  close (): void {}
}

class SimulatedHolder implements Holder {
  told: CloseReason | undefined
  #leave!: () => void
  readonly gone = new Promise<void>(resolve => { this.#leave = resolve })
  readonly startedAt = performance.now()
  readonly connection: SimulatedConnection
  readonly #lasts: number
  constructor (connection: SimulatedConnection, lasts: number) {
    this.connection = connection
    this.#lasts = lasts
  }

  close (reason: CloseReason): void {
    this.told = reason
    setTimeout(this.#leave, this.#lasts)
  }

  get live (): boolean { return this.told === undefined && !this.connection.dead }
}

/** Three processes, a Redis, and a network between them that is as bad as the seed says. */
class World {
  readonly random: Random
  readonly scripts = new Set<Script>()
  readonly redis: RedisModel
  readonly connections: SimulatedConnection[] = []
  readonly registries: Registry[]
  readonly holders = new Map<string, SimulatedHolder[]>()
  down = false
  faulty = false

  constructor (seed: number) {
    this.random = new Random(seed)
    this.redis = new RedisModel(() => Math.round((performance.timeOrigin + performance.now()) * 1000), (channel, message) => this.publish(channel, message))
    const { log } = memoryLog()
    this.registries = Array.from({ length: 3 }, () => {
      const member = new Member({ prefix: '', lease: LEASE, replaceTimeout: REPLACE_TIMEOUT, log }, member => {
        const connection = new SimulatedConnection(this, member)
        this.connections.push(connection)
        return connection
      })
      member.join()
      member.onReady()
      return new Registry(member, { ...defaults, replaceTimeout: REPLACE_TIMEOUT, onLimit: 'replace-oldest' }, log)
    })
  }

  delay (): number {
    return this.random.chance(this.faulty ? 5 : 0) ? 100 + this.random.below(200) : 1 + this.random.below(20)
  }

  // Each message takes a time of its own, so that they overtake each other.
  publish (channel: string, message: string): number {
    const connection = this.connections.find(({ member }) => member.channel === channel)
    if (connection === undefined || connection.dead || !connection.isSubscribed) return 0
    if (!(this.faulty && this.random.chance(15))) {
      setTimeout(() => { if (!connection.dead && connection.isSubscribed) connection.member.onMessage(message) }, this.delay())
    }
    return 1
  }

  start (process: number): void {
    const connection = this.connections[process]!
    if (connection.dead) return
    const tab = String(this.random.below(2))
    this.startOn(process, tab)
  }

  startOn (process: number, tab: string): SimulatedHolder {
    const holder = new SimulatedHolder(this.connections[process]!, this.random.below(30))
    this.holders.set(tab, [...this.holders.get(tab) ?? [], holder])
    this.registries[process]!.replaceAndRegister(streamKey('ann', tab), holder)
    return holder
  }

  fault (): void {
    const connection = this.connections[this.random.below(3)]!
    const lasts = 50 + this.random.below(1_500)
    switch (this.random.below(5)) {
      case 0:
        connection.halted = true
        setTimeout(() => connection.resume(), lasts)
        break
      case 1:
        connection.isSubscribed = false
        setTimeout(() => { if (!this.down) connection.back() }, lasts)
        break
      case 2:
        if (this.down) break
        this.down = true
        for (const connection of this.connections) connection.canSend = connection.isSubscribed = false
        setTimeout(() => {
          this.down = false
          this.redis.restart()
          this.scripts.clear()
          for (const connection of this.connections) setTimeout(() => connection.back(), this.random.below(50))
        }, lasts)
        break
      case 3:
        if (this.connections.filter(({ dead }) => !dead).length > 1 && this.random.chance(30)) {
          connection.dead = true
          connection.canSend = connection.isSubscribed = false
        }
        break
      case 4:
        // Nothing but what the network does anyway.
    }
  }
}

t.test(`${SEEDS} seeds: within a lease of the last fault each key has one stream, and that is the newest`, async t => {
  let checked = 0
  for (let seed = firstSeed; seed < firstSeed + SEEDS; seed++) {
    const clock = FakeTimers.install({ now: 1_800_000_000_000, toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'setImmediate', 'performance'] })
    try {
      const problem = await simulate(seed, async until => {
        while (performance.now() < until) {
          clock.next()
          await turn()
        }
      })
      if (problem !== undefined) {
        t.fail(`${problem}: ${repeatWith(import.meta.url, seed)}`)
        return
      }
      checked++
    } finally {
      clock.reset()
      clock.uninstall()
    }
  }
  t.equal(checked, SEEDS)
})

async function simulate (seed: number, run: (until: number) => Promise<void>): Promise<string | undefined> {
  const world = new World(seed)
  const { random, holders } = world
  await run(100)
  world.faulty = true
  for (let i = 6 + random.below(10); i > 0; i--) setTimeout(() => world.start(random.below(3)), random.below(FAULTS_UNTIL))
  for (let i = 1 + random.below(3); i > 0; i--) setTimeout(() => world.fault(), random.below(FAULTS_UNTIL - 1_550))
  await run(100 + FAULTS_UNTIL)
  world.faulty = false
  await run(100 + FAULTS_UNTIL + LEASE)

  for (const [tab, list] of holders) {
    const live = list.filter(holder => holder.live)
    if (live.length > 1) return `tab ${tab} has ${live.length} streams`
    const newest = Math.max(...list.map(({ startedAt }) => startedAt))
    // One whose process has died takes its key with it.
    if (live.length === 0 && !list.some(({ connection, startedAt }) => connection.dead && startedAt > newest - UNORDERED)) return `tab ${tab} has lost its stream`
    if (live.length === 1 && live[0]!.startedAt < Math.max(...list.filter(({ connection }) => !connection.dead).map(({ startedAt }) => startedAt)) - UNORDERED) return `tab ${tab} has kept an old stream`
  }

  // In calm, newest wins to the millisecond.
  const alive = world.connections.flatMap(({ dead }, process) => dead ? [] : [process])
  const last = ['0', '1'].map(tab => world.startOn(alive[random.below(alive.length)]!, tab))
  await run(performance.now() + REPLACE_TIMEOUT + 200)
  for (const [i, holder] of last.entries()) {
    const live = holders.get(String(i))!.filter(holder => holder.live)
    if (live.length !== 1 || live[0] !== holder) return `tab ${i} is not the newest's`
  }
}
