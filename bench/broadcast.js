// An event for many streams: `streamRegistry.broadcast` against a loop over the streams, and `streamRegistry.send` to a scope of one stream
// against `stream.send`. Measures the processor time of the server's process until every client has the event.
import { needFiles } from './kit/limits.js'
import { inTurn, joined, median, ratios, row, startedAfresh } from './kit/pairs.js'
import { startServer } from './kit/processes.js'

/** How many events a server sends in a round, so that the benchmark's own messages to the server do not count. */
const EVENTS = 5

export const sizes = {
  full: {
    broadcasts: [
      { streams: 1_000, starts: 3, rounds: 12, warmUp: 8 },
      { streams: 10_000, starts: 2, rounds: 4, warmUp: 2 }
    ],
    scopes: { streams: 500, starts: 3, rounds: 12, warmUp: 8 }
  },
  moment: {
    broadcasts: [{ streams: 20, starts: 1, rounds: 2, warmUp: 2 }],
    scopes: { streams: 20, starts: 1, rounds: 2, warmUp: 2 }
  }
}

export async function run ({ broadcasts, scopes }) {
  const rows = []
  for (const { streams, starts, ...numbers } of broadcasts) {
    needFiles(streams + 300)
    const { octa, bare, channel } = joined(await startedAfresh(starts, () => measureBroadcast(streams, numbers)))
    const what = `\`broadcast\` of 1 KiB to ${streams.toLocaleString('en')} streams`
    // These two rows compare throughput, and the rows above compare times, so the ratio is inverted.
    rows.push(
      row({ what, against: 'a loop over bare `reply.sse.send`', values: ratios(bare, octa), atLeast: 2.5, note: note(octa, bare, streams) }),
      row({ what, against: '`channel.broadcast` of `better-sse`', values: ratios(channel, octa), atLeast: 1.5, note: note(octa, channel, streams) })
    )
  }
  const { streams, starts, ...numbers } = scopes
  const { scope, stream } = joined(await startedAfresh(starts, () => measureScopes(streams, numbers)))
  rows.push(row({ what: '`streamRegistry.send` of 1 KiB to a scope of one stream', against: '`stream.send`', values: ratios(scope, stream), atMost: 1.3, note: note(scope, stream, streams) }))
  return { rows }
}

function note (as, bs, streams) {
  const micros = times => `${(median(times) / streams * 1e6).toFixed(1)} us`
  return `by the server's processor time: ${micros(as)} for each stream against ${micros(bs)}; each client got each event once`
}

function measureBroadcast (streams, numbers) {
  return withStreams({ octa: ['octa', 'open'], bare: ['bare', 'send'], channel: ['channel', 'open'] }, streams, ({ octa, bare, channel }) => ({
    octa: octa.broadcast, bare: bare.broadcast, channel: channel.broadcast
  }), numbers)
}

function measureScopes (streams, numbers) {
  return withStreams({ octa: ['octa', 'open'] }, streams, ({ octa: { server, broadcast } }) => {
    const by = way => async () => {
      await server.ask('sendBy', way)
      return await broadcast()
    }
    return { scope: by('scope'), stream: by('stream') }
  }, numbers)
}

/** Starts servers with `streams` streams each, and measures the contestants that `contestantsOf` makes of the servers. */
async function withStreams (servers, streams, contestantsOf, { rounds, warmUp }) {
  const toClose = []
  try {
    const started = {}
    for (const [name, [file, route]] of Object.entries(servers)) {
      const server = await startServer(file)
      toClose.push(server)
      const audience = await startServer('audience')
      toClose.push(audience)
      await audience.ask('open', { port: server.port, route, streams })
      const broadcast = async () => {
        await server.ask('broadcast', EVENTS)
        await audience.ask('received', EVENTS)
        return await server.ask('spent') / EVENTS
      }
      started[name] = { server, broadcast }
    }
    const contestants = contestantsOf(started)
    // Warms up until V8 has compiled the code. The contestants take turns in the warm-up, because Linux acknowledges the first sixteen packets
    // after a pause within the sender's write, which takes a third longer. A contestant that waits for the warm-up of another would pay for that pause.
    await inTurn(contestants, warmUp)
    return await inTurn(contestants, rounds)
  } finally {
    for (const child of toClose.reverse()) await child.close()
  }
}
