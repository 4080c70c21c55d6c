// An event for many streams: `streamRegistry.broadcast` against a loop over the streams, and `streamRegistry.send` to a scope of one stream
// against `stream.send`. Measures the processor time of the server's process until every client has the event.
import { closing } from './kit/closing.js'
import { needFiles } from './kit/limits.js'
import { inTurn, median, ratios, row } from './kit/pairs.js'
import { startServer } from './kit/processes.js'

/** How many events a server sends in a round, so that the benchmark's own messages to the server do not count. */
const EVENTS = 5

export const sizes = {
  full: { starts: 2, broadcasts: [{ streams: 1_000, rounds: 18, warmUp: 8 }, { streams: 10_000, rounds: 4, warmUp: 2 }], scopes: { streams: 500, rounds: 18, warmUp: 8 } },
  moment: { broadcasts: [{ streams: 20, rounds: 2, warmUp: 2 }], scopes: { streams: 20, rounds: 2, warmUp: 2 } }
}

export async function measure ({ broadcasts, scopes }) {
  const results = {}
  for (const { streams, ...numbers } of broadcasts) {
    needFiles(streams + 300)
    const measured = await withStreams({ octa: ['octa', 'open'], bare: ['bare', 'send'], channel: ['channel', 'open'] }, streams, ({ octa, bare, channel }) => ({
      [`octa ${streams}`]: octa.broadcast, [`bare ${streams}`]: bare.broadcast, [`channel ${streams}`]: channel.broadcast
    }), numbers)
    Object.assign(results, measured)
  }
  const measured = await withStreams({ octa: ['octa', 'open'] }, scopes.streams, ({ octa: { server, broadcast } }) => {
    const by = way => async () => {
      await server.ask('sendBy', way)
      return await broadcast()
    }
    return { scope: by('scope'), stream: by('stream') }
  }, scopes)
  return { ...results, ...measured }
}

export function rows ({ scope, stream, ...results }, { broadcasts, scopes }) {
  const rows = []
  for (const { streams } of broadcasts) {
    const what = `\`broadcast\` of 1 KiB to ${streams.toLocaleString('en')} streams`
    const octa = results[`octa ${streams}`]
    // These two rows compare throughput, and the measured values are times, so the ratio is inverted.
    const against = (contestant, rest) => {
      const others = results[`${contestant} ${streams}`]
      return row({ what, values: ratios(others, octa), note: note(octa, others, streams), ...rest })
    }
    rows.push(
      against('bare', { against: 'a loop over bare `reply.sse.send`', atLeast: 2.5, top: streams === broadcasts.at(-1).streams ? { you: 'get', what: `events to ${streams.toLocaleString('en')} streams at once`, than: 'a loop over bare `@fastify/sse`', value: '{} times as many' } : undefined }),
      against('channel', { against: '`channel.broadcast` of `better-sse`', atLeast: 1.5 })
    )
  }
  rows.push(row({ what: '`streamRegistry.send` of 1 KiB to a scope of one stream', against: '`stream.send`', values: ratios(scope, stream), atMost: 1.3, note: note(scope, stream, scopes.streams) }))
  return { rows }
}

function note (as, bs, streams) {
  const micros = times => `${(median(times) / streams * 1e6).toFixed(1)} us`
  return `by the server's processor time: ${micros(as)} for each stream against ${micros(bs)}; each client got each event once`
}

/** Starts servers with `streams` streams each, and measures the contestants that `contestantsOf` makes of the servers. */
function withStreams (servers, streams, contestantsOf, { rounds, warmUp }) {
  return closing(async keep => {
    const started = {}
    for (const [name, [file, route]] of Object.entries(servers)) {
      const server = keep(await startServer(file))
      const audience = keep(await startServer('audience'))
      await audience.ask('open', { port: server.port, route, streams })
      const broadcast = async () => {
        await audience.ask('expect', EVENTS)
        await server.ask('broadcast', EVENTS)
        await audience.ask('received')
        return await server.ask('spent') / EVENTS
      }
      started[name] = { server, broadcast }
    }
    const contestants = contestantsOf(started)
    // Warms up until V8 has compiled the code. The contestants take turns in the warm-up, because Linux acknowledges the first sixteen packets
    // after a pause within the sender's write, which takes a third longer. A contestant that waits for the warm-up of another would pay for that pause.
    await inTurn(contestants, warmUp)
    return await inTurn(contestants, rounds)
  })
}
