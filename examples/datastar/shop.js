// What the shop knows: its orders, and a `change` with all of them whenever one is new or goes on. No HTTP, no HTML.
import { EventEmitter } from 'node:events'

export const STEPS = ['received', 'packed', 'sent', 'delivered']
const KEPT = 12
const ITEMS = ['Espresso cups', 'A bicycle bell', 'Two lemons', 'Printer paper', 'Running shoes']

export class Shop extends EventEmitter {
  #orders = new Map()
  #nextId = 1

  constructor () {
    super()
    // One listener for each open stream: many are no leak here.
    this.setMaxListeners(0)
    for (const item of ITEMS) this.place(item)
  }

  /** The newest first. */
  get orders () {
    return [...this.#orders.values()].reverse()
  }

  place (item) {
    const order = { id: this.#nextId++, item, step: 0 }
    this.#orders.set(order.id, order)
    if (this.#orders.size > KEPT) this.#orders.delete(this.#orders.keys().next().value)
    this.emit('change', this.orders)
  }

  /** Returns whether there is such an order. */
  advance (id) {
    const order = this.#orders.get(id)
    if (order === undefined) return false
    if (order.step < STEPS.length - 1) {
      order.step++
      this.emit('change', this.orders)
    }
    return true
  }

  /** What customers and couriers do: one thing every two seconds. Returns what ends it. */
  open () {
    const timer = setInterval(() => {
      const open = this.orders.filter(order => order.step < STEPS.length - 1)
      if (open.length < 4) this.place(ITEMS[this.#nextId % ITEMS.length])
      else this.advance(open[Math.floor(Math.random() * open.length)].id)
    }, 2000)
    return () => clearInterval(timer)
  }
}
