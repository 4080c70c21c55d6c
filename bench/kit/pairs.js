// Measures contestants in turn, A B A B, so that other work of the machine slows down both. Makes rows of the results.

/**
 * Calls each of `contestants` in turn, `rounds` times, after one round that does not count. Resolves to the results of
 * each contestant, by name. The order never changes: with an alternating order a contestant would run twice in a row, on warm
 * caches or while its own garbage is still being collected.
 */
export async function inTurn (contestants, rounds) {
  const results = Object.fromEntries(Object.keys(contestants).map(name => [name, []]))
  for (let round = -1; round < rounds; round++) {
    for (const [name, measure] of Object.entries(contestants)) {
      const result = await measure()
      if (round >= 0) results[name].push(result)
    }
  }
  return results
}

/** The results of `once`, called `starts` times with the number of the start. */
export async function startedAfresh (starts, once) {
  const all = []
  for (let start = 0; start < starts; start++) all.push(await once(start))
  return all
}

/** Merges the results of several calls of `inTurn`. */
export function joined (list) {
  return Object.fromEntries(Object.keys(list[0]).map(name => [name, list.flatMap(results => results[name])]))
}

/** Maps each pair with `of`. */
export function each (as, bs, of) {
  return as.map((a, i) => of(a, bs[i]))
}

/** The ratio of each pair, from the numbers that `pick` takes from the two results. */
export function ratios (as, bs, pick = result => result) {
  return each(as, bs, (a, b) => pick(a) / pick(b))
}

/** A row about throughput, measured with `throughput` of wire.js. */
export function throughputRow ({ as, bs, note = '', ...rest }) {
  const byCpu = median(ratios(as, bs, ({ perCpuSecond }) => perCpuSecond))
  const notes = [`throughput; ${byCpu.toFixed(2)} x by the server's processor time`, ...note === '' ? [] : [note]]
  return row({ ...rest, values: ratios(as, bs, ({ perSecond }) => perSecond), note: notes.join('; ') })
}

/** The value that `share` (0 to 1) of the values are below. */
export function quantile (values, share) {
  const sorted = Float64Array.from(values).sort()
  const place = (sorted.length - 1) * share
  const below = sorted[Math.floor(place)]
  return below + (sorted[Math.ceil(place)] - below) * (place % 1)
}

export function median (values) {
  return quantile(values, 0.5)
}

/**
 * A row of the table. `values` has a value for each pair, and becomes the median and the quartiles. The row's target is
 * `atLeast`, `atMost`, `above` or `below`. A row without a target is for information.
 */
export function row ({ what, against, values, unit = 'x', note = '', ...limit }) {
  const measured = median(values)
  return { what, against, measured, low: quantile(values, 0.25), high: quantile(values, 0.75), pairs: values.length, unit, note, limit, reached: reaches(measured, limit) }
}

function reaches (measured, { atLeast = -Infinity, atMost = Infinity, above = -Infinity, below = Infinity }) {
  return measured >= atLeast && measured <= atMost && measured > above && measured < below
}
