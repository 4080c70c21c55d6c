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

/**
 * Measures a benchmark. Starts `starts` times, because a process may be luckier than another with where its code lies. Goes on as long as a row
 * is not clear: up to three times as many starts, of which none begins after `enough` milliseconds. Resolves to the benchmark's rows.
 */
export async function measureUntilClear ({ measure, rows }, { starts = 1, ...numbers }, enough) {
  const begin = performance.now()
  const all = []
  let made
  do {
    all.push(await measure(numbers, all.length))
    made = rows(joined(all), numbers)
  } while (all.length < starts || (all.length < 3 * starts && !made.rows.every(isClear) && performance.now() - begin < enough))
  return made
}

/**
 * Whether the pairs tell on which side of its limit a row is. They do not if the limit lies within the quartiles, and within the
 * interval that holds the true median with a probability of 95 %.
 */
function isClear ({ values, limit }) {
  const share = Math.min(0.25, 0.98 / Math.sqrt(values.length))
  return values.length === 1 || Object.values(limit).every(bound => bound < quantile(values, 0.5 - share) || bound > quantile(values, 0.5 + share))
}

/** Merges the results of several starts. A later start may measure fewer contestants than the first. */
function joined (list) {
  return Object.fromEntries(Object.keys(list[0]).map(name => [name, list.flatMap(results => results[name] ?? [])]))
}

/** Maps each pair with `of`. */
export function each (as, bs, of) {
  return as.map((a, i) => of(a, bs[i]))
}

/** The ratio of each pair, from the numbers that `pick` takes from the two results. */
export function ratios (as, bs, pick = result => result) {
  return each(as, bs, (a, b) => pick(a) / pick(b))
}

/** A row about throughput, measured with `throughput` of wire.js. The server's processor time decides, because a neighbour slows down the clock. */
export function throughputRow ({ as, bs, note = '', ...rest }) {
  const byClock = median(ratios(as, bs, ({ perSecond }) => perSecond))
  const notes = [`requests per second of the server's processor time; ${byClock.toFixed(2)} x by the clock`, ...note === '' ? [] : [note]]
  return row({ ...rest, values: ratios(as, bs, ({ perCpuSecond }) => perCpuSecond), note: notes.join('; ') })
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

export const p50 = median
export const p99 = values => quantile(values, 0.99)

/** The median of several times in milliseconds, as a text. */
export const micros = times => `${Math.round(median(times) * 1000).toLocaleString('en')} us`
export const kibibytes = bytes => `${(median(bytes) / 1024).toFixed(1)} KiB`
export const millis = times => `${median(times).toFixed(1)} ms`

/**
 * A row of the table. `values` has a value for each pair, and becomes the median and the quartiles. The row's target is
 * `atLeast`, `atMost`, `above` or `below`. A row without a target is for information. `top` puts the row into the summary of RESULTS.md, in
 * plain words: whether the reader pays or gets, for what, than what, and the value, in which `{}` stands for the median.
 */
export function row ({ what, against, values, unit = 'x', note = '', top, ...limit }) {
  const measured = median(values)
  return { ...top === undefined ? {} : { top: { ...top, value: top.value.replace('{}', measured.toFixed(unit === '' ? 0 : 2)) } }, what, against, measured, low: quantile(values, 0.25), high: quantile(values, 0.75), pairs: values.length, values, unit, note, limit, reached: reaches(measured, limit) }
}

/** A row of what must never happen: the sum of the counts of all rounds. */
export function countRow ({ counts, ...rest }) {
  return { ...row({ against: 'none', unit: '', atMost: 0, ...rest, values: [counts.reduce((sum, count) => sum + count)] }), pairs: counts.length }
}

function reaches (measured, { atLeast = -Infinity, atMost = Infinity, above = -Infinity, below = Infinity }) {
  return measured >= atLeast && measured <= atMost && measured > above && measured < below
}
