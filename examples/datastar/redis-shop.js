// A shop that keeps the state in Redis, so that several processes sell the same pieces. Has the methods of MemoryShop.
import { PRODUCTS, stockAfter } from './shop.js'

const SOLD = 'shop:sold'
const ordersOf = userId => `shop:orders:${userId}`

// Redis runs a script as a single step, so two processes never sell the same piece.
const ORDER = `
if tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0) >= tonumber(ARGV[2]) then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[1])
return redis.call('HINCRBY', KEYS[1], ARGV[1], 1)`

export class RedisShop {
  #redis

  constructor (redis) {
    this.#redis = redis
  }

  async stock () {
    return stockAfter(await this.#redis.hgetall(SOLD))
  }

  async orders (userId) {
    return await this.#redis.lrange(ordersOf(userId), 0, -1)
  }

  async order (userId, product) {
    return await this.#redis.eval(ORDER, 2, SOLD, ordersOf(userId), product, PRODUCTS[product].pieces) > 0
  }
}
