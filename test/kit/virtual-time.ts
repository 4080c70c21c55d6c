// Time for simulations: timers fire in the order of their times, without waiting. Each timer belongs to the simulated process that set
// the timer, so that a process can stand still, die, or have a clock of its own.
import { setImmediate as turn } from 'node:timers/promises'

/** The time of a simulated process. */
export class Owner {
  /** A process that is dead runs nothing. */
  isDead = false
  /** How far the clock of the process has fallen behind, for example while a virtual machine was suspended. Unit: milliseconds. */
  behind = 0
  #isHalted = false
  readonly #time: VirtualTime
  // The callbacks that came due while the process stood still.
  #timers: Array<() => void> = []
  #input: Array<() => void> = []

  constructor (time: VirtualTime) {
    this.#time = time
  }

  get isHalted (): boolean { return this.#isHalted }

  /** Runs `callback` in the process as a separate task: now, or when the process no longer stands still. */
  run (callback: () => void, isTimer = false): void {
    if (this.isDead) return
    if (this.#isHalted) (isTimer ? this.#timers : this.#input).push(callback)
    else {
      this.#time.current = this
      callback()
    }
  }

  halt (): void { this.#isHalted = true }

  /** libuv runs the timers that are due before reading the data that has arrived. See https://docs.libuv.org/en/v1.x/design.html#the-i-o-loop */
  resume (): void {
    this.#isHalted = false
    for (const callback of [...this.#timers.splice(0), ...this.#input.splice(0)]) this.#time.after(0, callback, this)
  }
}

class Timer {
  callback: (() => void) | undefined
  readonly at: number
  readonly order: number
  readonly owner: Owner | undefined
  readonly isTimer: boolean
  isReferenced = true

  constructor (callback: () => void, at: number, order: number, owner: Owner | undefined, isTimer: boolean) {
    this.callback = callback
    this.at = at
    this.order = order
    this.owner = owner
    this.isTimer = isTimer
  }

  ref (): this {
    this.isReferenced = true
    return this
  }

  unref (): this {
    this.isReferenced = false
    return this
  }
}

const GLOBALS = ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'setImmediate', 'performance'] as const

export class VirtualTime {
  now = 0
  readonly origin: number
  /** The process that runs at the moment. */
  current: Owner | undefined
  // A heap: no timer is due before its parent at half the index.
  readonly #heap: Timer[] = []
  #order = 0
  readonly #real = GLOBALS.map(name => [name, Object.getOwnPropertyDescriptor(globalThis, name)!] as const)

  /** `origin` is the time of the virtual clocks at the beginning. Unit: milliseconds since the epoch. */
  constructor (origin: number) {
    this.origin = origin
    const time = this
    const replace: Record<typeof GLOBALS[number], unknown> = {
      setTimeout: (callback: () => void, delay?: number) => time.#add(callback, time.#delay(delay), time.current, true),
      clearTimeout: (timer?: Timer) => { if (timer !== undefined) timer.callback = undefined },
      setInterval: (callback: () => void, delay?: number) => time.#repeat(callback, time.#delay(delay)),
      clearInterval: (timer?: Timer) => { if (timer !== undefined) timer.callback = undefined },
      setImmediate: (callback: () => void) => time.#add(callback, 0, time.current, false),
      performance: {
        now: () => time.now,
        get timeOrigin () { return origin - (time.current?.behind ?? 0) }
      }
    }
    for (const name of GLOBALS) Object.defineProperty(globalThis, name, { configurable: true, writable: true, value: replace[name] })
  }

  /** Restores the real timers. Timers that are left never fire. */
  end (): void {
    for (const [name, descriptor] of this.#real) Object.defineProperty(globalThis, name, descriptor)
  }

  /** Calls `callback` after `delay` milliseconds, in the process `owner`, or outside of all processes. */
  after (delay: number, callback: () => void, owner?: Owner): void {
    this.#add(callback, delay, owner, false)
  }

  /** Lets the time run to `until`. Promises settle before the next timer fires. */
  async run (until: number): Promise<void> {
    await turn()
    for (;;) {
      const next = this.#heap[0]
      if (next === undefined || next.at > until) break
      this.#remove()
      const { owner } = next
      if (next.callback === undefined || owner?.isDead === true) continue
      this.now = next.at
      this.current = undefined
      // The process may clear the timer before the process runs again.
      const fire = () => next.callback?.()
      if (owner === undefined) fire()
      else owner.run(fire, next.isTimer)
      await turn()
    }
    this.now = until
    this.current = undefined
  }

  // Node treats a shorter delay as 1 ms, and drops fractions. See https://nodejs.org/api/timers.html#settimeoutcallback-delay-args
  #delay (delay = 1): number {
    return Math.max(1, Math.trunc(delay))
  }

  #repeat (callback: () => void, delay: number): Timer {
    const owner = this.current
    const handle = new Timer(callback, 0, 0, owner, true)
    const fire = () => {
      if (handle.callback === undefined) return
      this.#add(fire, delay, owner, true)
      handle.callback()
    }
    this.#add(fire, delay, owner, true)
    return handle
  }

  #add (callback: () => void, delay: number, owner: Owner | undefined, isTimer: boolean): Timer {
    const timer = new Timer(callback, this.now + delay, ++this.#order, owner, isTimer)
    const heap = this.#heap
    let i = heap.push(timer) - 1
    while (i > 0) {
      const parent = (i - 1) >> 1
      if (!isBefore(timer, heap[parent]!)) break
      heap[i] = heap[parent]!
      i = parent
    }
    heap[i] = timer
    return timer
  }

  #remove (): void {
    const heap = this.#heap
    const last = heap.pop()!
    if (heap.length === 0) return
    let i = 0
    for (;;) {
      let child = 2 * i + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) child++
      if (!isBefore(heap[child]!, last)) break
      heap[i] = heap[child]!
      i = child
    }
    heap[i] = last
  }
}

function isBefore (one: Timer, other: Timer): boolean {
  return one.at < other.at || (one.at === other.at && one.order < other.order)
}
