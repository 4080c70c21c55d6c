// Replacing a stream over HTTP, from the new request until the old client sees the end and the new client sees the head. Compares with
// `res.end()` and opening another response on bare @fastify/sse.
import { closing } from './kit/closing.js'
import { inTurn, micros, p50, p99, ratios, row } from './kit/pairs.js'
import { startServer } from './kit/processes.js'
import { Tab } from './kit/tabs.js'
import { streamPath, Wire } from './kit/wire.js'

export const sizes = {
  // Starts the servers several times: the scheduler may keep a server on the client's core, or away from the client's core, until the server ends.
  // V8 has compiled all code of a replacement after some 4,000 replacements.
  full: { starts: 8, rounds: 25, warmUp: 5_000, replaces: 200, others: 9 },
  moment: { rounds: 2, warmUp: 10, replaces: 10, others: 1 }
}

export function measure ({ rounds, warmUp, replaces, others }) {
  return closing(async keep => {
    const contestants = {}
    for (const name of ['octa', 'bare']) {
      const server = keep(await startServer(name))
      const wires = await Wire.connectUntilClosed(keep, server.port, others + 2)
      for (const wire of wires.slice(2)) await wire.open(streamPath('replace'))
      const tab = new Tab(wires.slice(0, 2))
      await tab.open()
      await tab.replaceEach(warmUp)
      contestants[name] = () => tab.replaceEach(replaces)
    }
    return await inTurn(contestants, rounds)
  })
}

export function rows ({ octa, bare }) {
  const against = '`res.end()` of one response and opening another, on bare `@fastify/sse`'
  return {
    rows: [
      row({ what: 'replace: from the new request to the old client\'s end and the new one\'s head, p50', against, values: ratios(octa, bare, p50), atMost: 1.15, note: `${micros(octa.map(p50))} against ${micros(bare.map(p50))}; the old client is sent a farewell, by \`res.end()\` it is not`, top: { you: 'pay', what: 'the time until a new stream has replaced the old one', than: 'ending the old response by hand, on bare `@fastify/sse`', value: '{} times as long' } }),
      row({ what: 'the same, p99', against, values: ratios(octa, bare, p99), atMost: 1.25, note: `${micros(octa.map(p99))} against ${micros(bare.map(p99))}` })
    ]
  }
}
