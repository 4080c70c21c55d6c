// Replacing a stream over HTTP, from the new request until the old client sees the end and the new client sees the head. Compares with
// `res.end()` and opening another response on bare @fastify/sse. Compares 10, 1,000 and 10,000 live streams with 10 live streams.
import { needFiles } from './kit/limits.js'
import { inTurn, joined, median, quantile, ratios, row, startedAfresh } from './kit/pairs.js'
import { startServer } from './kit/processes.js'
import { forEach, streamPath, Wire } from './kit/wire.js'

export const sizes = {
  full: { starts: 4, rounds: 25, replaces: 300, live: [10, 1_000, 10_000] },
  moment: { starts: 1, rounds: 2, replaces: 10, live: [2, 10, 40] }
}

export async function run ({ starts, ...numbers }) {
  // Starts the servers several times: the scheduler may keep a server on the client's core, or away from the client's core, until the server ends.
  const all = await startedAfresh(starts, () => once(numbers))
  return result(numbers.live, joined(all.map(({ sides }) => sides)), joined(all.map(({ many }) => many)))
}

async function once ({ rounds, replaces, live }) {
  needFiles(live.reduce((a, b) => a + b) + 200)
  const toClose = []
  async function contestant (file, count) {
    const server = await startServer(file)
    toClose.push(server)
    const wires = await Wire.connect(server.port, count + 1)
    toClose.push({ close: () => wires.forEach(wire => wire.leave()) })
    const tab = new Tab(wires)
    await forEach(wires.slice(2), 100, wire => wire.open(streamPath('replace')))
    await tab.open()
    const measure = () => latencies(tab, replaces)
    await measure()
    return measure
  }

  try {
    const sides = await inTurn({ octa: await contestant('octa', live[0]), bare: await contestant('bare', live[0]) }, rounds)
    const many = await inTurn(Object.fromEntries(await Promise.all(live.map(async count => [`live${count}`, await contestant('octa', count)]))), rounds)
    return { sides, many }
  } finally {
    for (const thing of toClose.reverse()) await thing.close()
  }
}

function result (live, sides, many) {
  const against = '`res.end()` of one response and opening another, on bare `@fastify/sse`'
  const least = many[`live${live[0]}`]
  const most = many[`live${live.at(-1)}`]
  const scaling = live.map(count => [count, ratios(many[`live${count}`], least, p50)])
  return {
    rows: [
      row({ what: 'replace: from the new request to the old client\'s end and the new one\'s head, p50', against, values: ratios(sides.octa, sides.bare, p50), atMost: 1.3, note: `${micros(sides.octa)} against ${micros(sides.bare)}; the old client is sent a farewell, by \`res.end()\` it is not` }),
      row({ what: 'the same, p99', against, values: ratios(sides.octa, sides.bare, p99), atMost: 1.3 }),
      ...scaling.slice(1).map(([count, values]) => row({
        what: `the same with ${count.toLocaleString('en')} live streams, p50`,
        against: `itself with ${live[0]}`,
        values,
        atMost: 1.2,
        note: count === live.at(-1) ? `${micros(most)} against ${micros(least)}` : ''
      }))
    ],
    series: [{ label: 'replace over HTTP, by live streams', points: scaling.map(([count, values]) => [count, median(values)]) }]
  }
}

const p50 = times => quantile(times, 0.5)
const p99 = times => quantile(times, 0.99)
const micros = rounds => `${Math.round(median(rounds.map(p50)) * 1000)} us`

/** A tab with two connections. While a stream is open on the first, the stream that replaces it opens on the second, and so on in turn. */
class Tab {
  #wires
  #path = streamPath('replace')

  constructor (wires) {
    this.#wires = wires.slice(0, 2)
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
}

async function latencies (tab, count) {
  const times = []
  while (times.length < count) {
    const start = performance.now()
    await tab.replace()
    times.push(performance.now() - start)
  }
  return times
}
