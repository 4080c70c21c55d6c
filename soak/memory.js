// The memory curve of one process: draws the curve, and says whether the curve rises.

const MIB = 1024 * 1024
const BARS = '▁▂▃▄▅▆▇█'
const WIDTH = 60

/** The last quarter may exceed the second quarter by this much. A leak of the streams of an hour exceeds this by far, and the noise of a heap does not. */
export const BOUNDS = {
  heapUsed: { factor: 1.2, plus: 4 * MIB },
  rss: { factor: 1.3, plus: 32 * MIB }
}

export function curve (samples, what) {
  const values = samples.map(sample => sample[what])
  const quarter = n => median(values.slice(Math.floor(values.length * (n - 1) / 4), Math.max(1, Math.floor(values.length * n / 4))))
  const [before, after] = [quarter(2), quarter(4)]
  const { factor, plus } = BOUNDS[what]
  const limit = before * factor + plus
  return {
    rises: after > limit,
    text: `${sparkline(values)}  min ${mib(Math.min(...values))}, median ${mib(median(values))}, last ${mib(values.at(-1))}; second quarter ${mib(before)}, last quarter ${mib(after)}, bound ${mib(limit)} MiB`
  }
}

export function median (values) {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? NaN
}

function sparkline (values) {
  const width = Math.min(WIDTH, values.length)
  const means = Array.from({ length: width }, (_, i) => median(values.slice(Math.floor(i * values.length / width), Math.floor((i + 1) * values.length / width))))
  const [low, high] = [Math.min(...means), Math.max(...means)]
  return means.map(mean => BARS[high === low ? 0 : Math.round((mean - low) / (high - low) * (BARS.length - 1))]).join('')
}

function mib (bytes) {
  return (bytes / MIB).toFixed(1)
}
