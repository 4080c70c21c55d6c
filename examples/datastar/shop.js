// The shop's orders. Emits `change` with all orders whenever an order is placed or advances. No HTTP, no HTML.
import { EventEmitter } from 'node:events'

export const STEPS = ['received', 'packed', 'sent', 'delivered']
const KEPT = 12
const ITEMS = ['Espresso cups', 'A bicycle bell', 'Two lemons', 'Printer paper', 'Running shoes']

export class Shop extends EventEmitter {
  #orders = new Map()
  #nextId = 1

  constructor () {
    super()
    // Each open stream adds a listener, so a large number of listeners is not a leak here.
    this.setMaxListeners(0)
    for (const item of ITEMS) this.place(item)
  }

  /** All orders, the newest first. */
  get orders () {
    return [...this.#orders.values()].reverse()
  }

  place (item) {
    const order = { id: this.#nextId++, item, step: 0 }
    this.#orders.set(order.id, order)
    if (this.#orders.size > KEPT) this.#orders.delete(this.#orders.keys().next().value)
    this.emit('change', this.orders)
  }

  /** Moves an order to the next step. Returns `false` if no order has this id. */
  advance (id) {
    const order = this.#orders.get(id)
    if (order === undefined) return false
    if (order.step < STEPS.length - 1) {
      order.step++
      this.emit('change', this.orders)
    }
    return true
  }

  /** Plays the customers and couriers: every two seconds an order is placed or advances. Returns a function that stops them. */
  open () {
    const timer = setInterval(() => {
      const open = this.orders.filter(order => order.step < STEPS.length - 1)
      if (open.length < 4) this.place(ITEMS[this.#nextId % ITEMS.length])
      else this.advance(open[Math.floor(Math.random() * open.length)].id)
    }, 2000)
    return () => clearInterval(timer)
  }
}
