// The load of a single process: 10,000 live streams, all of which are replaced, and how late the event loop is meanwhile. Compares with bare
// @fastify/sse, which ends each response with `res.end()` and opens a new response. No stream may be lost or doubled.
import { closing } from './kit/closing.js'
import { needFiles } from './kit/limits.js'
import { countRow, inTurn, median, millis, ratios, row } from './kit/pairs.js'
import { startServer } from './kit/processes.js'
import { Tabs } from './kit/tabs.js'
import { Wire } from './kit/wire.js'

export const sizes = {
  full: { starts: 2, rounds: 5, streams: 10_000, atOnce: 100 },
  moment: { rounds: 1, streams: 50, atOnce: 10 }
}

export function measure ({ rounds, streams, atOnce }) {
  needFiles(streams + atOnce + 200)
  return closing(async keep => {
    const octa = keep(await startServer('octa'))
    const bare = keep(await startServer('bare'))
    return await inTurn({
      octa: () => replaceAll(octa, streams, atOnce, checkOnce),
      bare: () => replaceAll(bare, streams, atOnce)
    }, rounds)
  })
}

export function rows ({ octa, bare }, { streams, atOnce }) {
  const what = `one process, ${streams.toLocaleString('en')} live streams, all replaced, ${atOnce} at a time: `
  const against = '`res.end()` and opening others, on bare `@fastify/sse`'
  const both = (unit, pick) => `${unit(octa.map(pick))} against ${unit(bare.map(pick))}`
  const byClock = median(ratios(octa, bare, ({ time }) => time))
  return {
    rows: [
      row({ what: `${what}p99 delay of its event loop`, against, values: ratios(octa, bare, ({ p99 }) => p99), atMost: 1.1, note: `${both(millis, ({ p99 }) => p99)}; at most ${both(millis, ({ max }) => max)}` }),
      row({ what: 'the same: how long it took', against, values: ratios(octa, bare, ({ cpu }) => cpu), atMost: 1.2, note: `the server's processor time, ${both(millis, ({ cpu }) => cpu)}; ${byClock.toFixed(2)} x by the clock` }),
      ...['lost', 'doubled'].map(which => countRow({ what: `the same: streams ${which}, in all rounds`, counts: octa.map(result => result[which]), note: `of ${(streams * octa.length).toLocaleString('en')} that were replaced` }))
    ]
  }
}

/** Opens all streams, replaces each stream, and disconnects. */
async function replaceAll (server, streams, atOnce, check = async () => {}) {
  const tabs = await Tabs.open(await Wire.connect(server.port, streams + atOnce), atOnce)
  await server.ask('watchDelay')
  const start = performance.now()
  const cpu = await server.ask('cpu')
  await tabs.replaceAll()
  const spent = { time: performance.now() - start, cpu: (await server.ask('cpu') - cpu) * 1000 }
  const delay = await server.ask('delay')
  const checked = await check(server, tabs, streams)
  tabs.leave()
  // Wait until the server has noticed that all clients have left.
  await server.ask('memory')
  return { ...spent, ...delay, ...checked }
}

/** Sends one event to each stream of the server. Every tab must receive the event once. */
async function checkOnce (server, tabs, streams) {
  tabs.countEvents()
  const size = await server.ask('size')
  await server.ask('broadcast', 1)
  const { lost, doubled } = await tabs.lostAndDoubled()
  return { lost, doubled: doubled + Math.max(0, size - streams) }
}
