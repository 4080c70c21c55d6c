// The load of a single process: 10,000 live streams, all of which are replaced, and how late the event loop is meanwhile. Compares with bare
// @fastify/sse, which ends each response with `res.end()` and opens a new response. No stream may be lost or doubled.
import { setTimeout as pause } from 'node:timers/promises'
import { needFiles } from './kit/limits.js'
import { inTurn, median, ratios, row } from './kit/pairs.js'
import { startServer } from './kit/processes.js'
import { forEach, streamPath, Wire } from './kit/wire.js'

export const sizes = {
  full: { rounds: 7, streams: 10_000, atOnce: 100 },
  moment: { rounds: 1, streams: 50, atOnce: 10 }
}

export async function run ({ rounds, streams, atOnce }) {
  needFiles(streams + atOnce + 200)
  const octa = await startServer('octa')
  const bare = await startServer('bare')
  try {
    const results = await inTurn({
      octa: () => replaceAll(octa, streams, atOnce, checkOnce),
      bare: () => replaceAll(bare, streams, atOnce)
    }, rounds)
    const what = `one process, ${streams.toLocaleString('en')} live streams, all replaced, ${atOnce} at a time: `
    const against = '`res.end()` and opening others, on bare `@fastify/sse`'
    const sum = what => results.octa.reduce((sum, result) => sum + result[what], 0)
    return {
      rows: [
        row({ what: `${what}p99 delay of its event loop`, against, values: ratios(results.octa, results.bare, ({ p99 }) => p99), note: `${millis(results.octa, 'p99')} against ${millis(results.bare, 'p99')}; at most ${millis(results.octa, 'max')} against ${millis(results.bare, 'max')}` }),
        row({ what: 'the same: how long it took', against, values: ratios(results.octa, results.bare, ({ time }) => time), note: `${millis(results.octa, 'time')} against ${millis(results.bare, 'time')}` }),
        ...['lost', 'doubled'].map(which => ({
          ...row({ what: `the same: streams ${which}, in all rounds`, against: 'none', values: [sum(which)], unit: '', atMost: 0, note: `of ${(streams * rounds).toLocaleString('en')} that were replaced` }),
          pairs: rounds
        }))
      ]
    }
  } finally {
    await octa.close()
    await bare.close()
  }
}

const millis = (results, what) => `${median(results.map(result => result[what])).toFixed(1)} ms`

/** Opens all streams, replaces each stream, and disconnects. A connection whose stream has ended carries the next stream. */
async function replaceAll (server, streams, atOnce, check = async () => {}) {
  const wires = await Wire.connect(server.port, streams + atOnce)
  const tabs = Array.from({ length: streams }, () => ({ path: streamPath('replace'), wire: wires.pop() }))
  await forEach(tabs, atOnce, ({ wire, path }) => wire.open(path))

  await server.ask('watchDelay')
  const start = performance.now()
  let farewells = 0
  await forEach(tabs, atOnce, async tab => {
    const old = tab.wire
    tab.wire = wires.pop()
    let text = ''
    old.onBody = piece => { text += piece }
    const ended = new Promise(resolve => { old.onEnd = resolve })
    await Promise.all([tab.wire.open(tab.path), ended])
    old.onBody = () => {}
    old.onEnd = () => {}
    if (text.includes('data: replaced\n')) farewells++
    wires.push(old)
  })
  const time = performance.now() - start
  const delay = await server.ask('delay')

  const checked = await check(server, tabs, farewells)
  for (const wire of [...wires, ...tabs.map(({ wire }) => wire)]) wire.leave()
  // Wait until the server has noticed that all clients have left.
  await server.ask('memory')
  return { time, ...delay, ...checked }
}

/** Sends one event to each stream of the server. Every tab must receive the event once. A Wire throws if data comes after the end of a response. */
async function checkOnce (server, tabs, farewells) {
  const received = new Map(tabs.map(tab => [tab, 0]))
  for (const tab of tabs) {
    tab.wire.onBody = text => { received.set(tab, received.get(tab) + text.split('event: tick\n').length - 1) }
  }
  const size = await server.ask('size')
  await server.ask('broadcast', 1)
  // The server has sent the event to every stream. An event that has not arrived within five seconds is lost.
  for (let i = 0; i < 500 && Math.min(...received.values()) < 1; i++) await pause(10)
  const counts = [...received.values()]
  const lost = counts.filter(count => count === 0).length + tabs.length - farewells
  const doubled = counts.filter(count => count > 1).length + Math.max(0, size - tabs.length)
  return { lost, doubled }
}
