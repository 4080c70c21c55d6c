// Random numbers that a seed repeats: a generator, and generators that are derived by name, so that no generator changes the draws of another.

/** mulberry32, see https://github.com/cprosche/mulberry32 */
export function generator (seed) {
  let state = seed >>> 0
  function next () {
    state = (state + 0x6D2B79F5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296
  }
  const below = limit => Math.floor(next() * limit)
  return {
    below,
    between: (low, high) => low + below(high - low + 1),
    /** The time until the next random event, `mean` on average, and never more than five times `mean`. */
    wait: mean => Math.min(5 * mean, -Math.log(1 - next()) * mean),
    pick: list => list[below(list.length)],
    /** A key of `weights`. The larger the number of a key, the more often the key is drawn. */
    weighted (weights) {
      let left = next() * Object.values(weights).reduce((sum, weight) => sum + weight, 0)
      return Object.keys(weights).find(key => (left -= weights[key]) < 0)
    },
    shuffle (list) {
      return list.map(item => [next(), item]).sort(([a], [b]) => a - b).map(([, item]) => item)
    }
  }
}

export function derive (seed, name) {
  let hash = seed
  for (const char of name) hash = Math.imul(hash ^ char.charCodeAt(0), 0x01000193)
  return generator(hash)
}
