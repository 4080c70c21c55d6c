// Up to 50,000 live streams in one process: the memory of a stream, the time of a replacement, and whether a stream is lost or doubled when
// all streams are replaced. Shows the alternatives in the plots, with a handler that replaces by hand.
import { closing } from './kit/closing.js'
import { clientOf, filesFor, transportFor } from './kit/limits.js'
import { countRow, inTurn, kibibytes, median, micros, p50, ratios, row } from './kit/pairs.js'
import { settledMemory, startServer } from './kit/processes.js'
import { Tab } from './kit/tabs.js'

export const sizes = {
  full: { starts: 3, rounds: 15, replaces: 100, counts: [10, 1_000, 10_000, 50_000], atOnce: 100 },
  moment: { rounds: 2, replaces: 5, counts: [2, 5, 10, 40], atOnce: 5, transport: 'http2' }
}

const CONTESTANTS = { octa: 'octa-star-streams', bare: 'bare @fastify/sse, replaced by hand', 'better-sse': 'better-sse, replaced by hand' }

/**
 * The servers of a contestant, one for each number of streams. If the machine does not allow a connection for each of the most streams, these
 * are measured over HTTP/2, and so are the streams that the most are compared with.
 */
function serversFor (counts, transport = transportFor(counts.at(-1))) {
  const [few, some, many, most] = counts
  const over = (transport, counts) => counts.map(count => ({ count, transport, key: `${transport} ${count}` }))
  return transport === 'http2' ? [...over('http1', [few, some, many]), ...over('http2', [many, most])] : over('http1', counts)
}

export async function measure ({ counts, transport, ...numbers }, start) {
  const results = {}
  for (const name of Object.keys(CONTESTANTS)) {
    // The alternatives have no limits, so one start is enough.
    if (name === 'octa' || start === 0) Object.assign(results, await measureOne(name, serversFor(counts, transport), numbers))
  }
  return results
}

export function rows (results, { counts, transport }) {
  const servers = serversFor(counts, transport)
  const [few, some, many] = servers
  const [manyLikeMost, most] = servers.slice(-2)
  const streams = ({ count }) => `${count.toLocaleString('en')} live streams`
  const over = ({ transport }) => transport === 'http2' ? '; over HTTP/2' : ''
  const times = ({ key }) => results[`octa replace ${key}`]
  const bytes = ({ key }) => results[`octa memory ${key}`]
  const replaceRow = (server, other) => row({
    what: `replace over HTTP with ${streams(server)}, p50`,
    against: `itself with ${other.count.toLocaleString('en')}`,
    values: ratios(times(server), times(other)),
    atMost: 1.2,
    note: `${micros(times(server))} against ${micros(times(other))}${over(server)}`
  })
  const replaced = results['octa lost'].length * most.count
  const count = (which, top) => countRow({ what: `one process, ${streams(most)}, all replaced: streams ${which}`, counts: results[`octa ${which}`], note: `of ${replaced.toLocaleString('en')} that were replaced${over(most)}`, top })
  const series = (plot, servers, valueOf) => Object.entries(CONTESTANTS).flatMap(([name, label], color) => ['http1', 'http2'].map(transport => ({
    plot,
    color,
    dashed: transport === 'http2',
    label: `${label}${over({ transport })}`,
    points: servers.filter(server => server.transport === transport).map(({ count, key }) => [count, valueOf(name, key)])
  })).filter(({ points }) => points.length > 0))
  return {
    rows: [
      replaceRow(some, few),
      replaceRow(many, few),
      replaceRow(most, manyLikeMost),
      row({ what: `memory of a live stream, of ${most.count.toLocaleString('en')}`, against: `of ${manyLikeMost.count.toLocaleString('en')}`, values: ratios(bytes(most), bytes(manyLikeMost)), atMost: 1.2, note: `${kibibytes(bytes(most))} against ${kibibytes(bytes(manyLikeMost))}${over(most)}` }),
      count('lost', { you: 'get', what: `streams lost when ${streams(most)} of one process are all replaced`, than: 'none', value: '{}' }),
      count('doubled')
    ],
    series: [
      // The memory of very few streams says more about the server than about the streams.
      ...series('memory', servers.slice(1), (name, key) => median(results[`${name} memory ${key}`]) / 1024),
      ...series('replace', servers, (name, key) => median(results[`${name} replace ${key}`]) * 1000),
      { plot: 'scaling', label: 'replace over HTTP, by live streams', points: servers.filter(({ transport }) => transport === few.transport).map(server => [server.count, median(ratios(times(server), times(few)))]) }
    ],
    remarks: most.transport === 'http2' ? [`${streams(most)} are measured over HTTP/2, because a connection for each needs \`ulimit -Hn ${filesFor(most.count)}\``] : []
  }
}

/** One server for each number of streams, so that their replacements can be measured in turn. */
function measureOne (name, servers, { rounds, replaces, atOnce }) {
  return closing(async keep => {
    const results = {}
    const replacing = {}
    let last
    for (const { count, transport, key } of servers) {
      const [server, clients] = (await Promise.all([startServer(name, transport), startServer('tabs')])).map(keep)
      const before = await server.ask('memory')
      await clients.ask('open', { port: server.port, count, atOnce, transport })
      results[`${name} memory ${key}`] = [(await settledMemory(server) - before) / count]

      const tab = new Tab(await clientOf(transport).connectUntilClosed(keep, server.port, 2))
      await tab.open()
      replacing[`${name} replace ${key}`] = async () => p50(await tab.replaceEach(replaces))
      last = { server, clients, count }
    }
    // Warms up until V8 has compiled the code.
    await inTurn(replacing, 3)
    Object.assign(results, await inTurn(replacing, rounds))
    if (name === 'octa') {
      const { lost, doubled } = await replaceAll(last)
      Object.assign(results, { 'octa lost': [lost], 'octa doubled': [doubled] })
    }
    return results
  })
}

/** Replaces all streams, and then sends one event to each stream of the server. Every tab must receive the event once. */
async function replaceAll ({ server, clients, count }) {
  await clients.ask('replaceAll')
  await clients.ask('countEvents')
  const size = await server.ask('size')
  await server.ask('broadcast', 1)
  const { lost, doubled } = await clients.ask('lostAndDoubled')
  // One stream more belongs to the tab whose replacements were measured.
  return { lost, doubled: doubled + Math.max(0, size - count - 1) }
}
