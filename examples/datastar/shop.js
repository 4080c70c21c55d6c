// The products, and a shop that keeps the state in memory. No HTTP, no HTML.
export const PRODUCTS = {
  cups: { name: 'Espresso cups', department: 'Kitchen', pieces: 24 },
  lemons: { name: 'Two lemons', department: 'Kitchen', pieces: 40 },
  pan: { name: 'A copper pan', department: 'Kitchen', pieces: 3 },
  paper: { name: 'Printer paper', department: 'Office', pieces: 60 },
  pen: { name: 'A fountain pen', department: 'Office', pieces: 12 },
  lamp: { name: 'A desk lamp', department: 'Office', pieces: 2 }
}

/** How many pieces of each product are left when the pieces in `sold` are sold. */
export function stockAfter (sold) {
  return Object.fromEntries(Object.entries(PRODUCTS).map(([product, { pieces }]) => [product, pieces - (sold[product] ?? 0)]))
}

export class MemoryShop {
  #sold = {}
  #orders = new Map()

  async stock () {
    return stockAfter(this.#sold)
  }

  /** The products that a user has ordered, the newest order first. */
  async orders (userId) {
    return this.#orders.get(userId) ?? []
  }

  /** Sells a piece to a user. Returns `false` if the product is sold out. */
  async order (userId, product) {
    if (stockAfter(this.#sold)[product] === 0) return false
    this.#sold[product] = (this.#sold[product] ?? 0) + 1
    this.#orders.set(userId, [product, ...this.#orders.get(userId) ?? []])
    return true
  }
}
