// Browser tabs with a live stream each.
import { setTimeout as pause } from 'node:timers/promises'
import { forEach, streamPath } from './wire.js'

/** A tab with two connections. While a stream is open on the first, the stream that replaces it opens on the second, and so on in turn. */
export class Tab {
  #wires
  #path = streamPath('replace')

  /** `wires`: the two connections. */
  constructor (wires) {
    this.#wires = wires
  }

  open () {
    return this.#wires[0].open(this.#path)
  }

  /** Resolves when the old stream has ended and the new one has opened. */
  replace () {
    const [old, next] = this.#wires
    this.#wires.reverse()
    return Promise.all([next.open(this.#path), new Promise(resolve => { old.onEnd = resolve })])
  }

  /** Replaces the stream `count` times, and resolves to the duration of each replacement. */
  async replaceEach (count) {
    const times = []
    while (times.length < count) {
      const start = performance.now()
      await this.replace()
      times.push(performance.now() - start)
    }
    return times
  }
}

/** Many tabs. No tab may lose its stream, or have two. */
export class Tabs {
  #atOnce
  #tabs
  #spareWires
  #farewells = 0
  #received

  /** Opens a stream for each of `wires`, except for the last `atOnce`. A connection whose stream has ended carries the next stream. */
  static async open (wires, atOnce) {
    const tabs = new Tabs()
    tabs.#atOnce = atOnce
    tabs.#spareWires = wires.slice(-atOnce)
    tabs.#tabs = wires.slice(0, -atOnce).map(wire => ({ wire, path: streamPath('replace') }))
    await forEach(tabs.#tabs, atOnce, ({ wire, path }) => wire.open(path))
    return tabs
  }

  /** Replaces each stream once. Resolves when each new stream has opened, and each old stream has ended. */
  async replaceAll () {
    await forEach(this.#tabs, this.#atOnce, async tab => {
      const old = tab.wire
      tab.wire = this.#spareWires.pop()
      let text = ''
      old.onBody = piece => { text += piece }
      const ended = new Promise(resolve => { old.onEnd = resolve })
      await Promise.all([tab.wire.open(tab.path), ended])
      old.onBody = () => {}
      old.onEnd = () => {}
      if (text.includes('data: replaced\n')) this.#farewells++
      this.#spareWires.push(old)
    })
  }

  /** Counts the events that arrive from now on. A wire throws if data comes after the end of a response. */
  countEvents () {
    this.#received = new Map(this.#tabs.map(tab => [tab, 0]))
    for (const tab of this.#tabs) {
      tab.wire.onBody = text => { this.#received.set(tab, this.#received.get(tab) + text.split('event: tick\n').length - 1) }
    }
  }

  /**
   * After `replaceAll` and `countEvents`, and after the server has sent one event to every stream: how many streams were lost, and how many
   * tabs have two. An event that has not arrived within five seconds is lost.
   */
  async lostAndDoubled () {
    for (let i = 0; i < 500 && Math.min(...this.#received.values()) < 1; i++) await pause(10)
    const counts = [...this.#received.values()]
    return {
      lost: counts.filter(count => count === 0).length + this.#tabs.length - this.#farewells,
      doubled: counts.filter(count => count > 1).length
    }
  }

  /** Breaks all connections off. */
  leave () {
    for (const wire of [...this.#spareWires, ...this.#tabs.map(({ wire }) => wire)]) wire.leave()
  }
}
