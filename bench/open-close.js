// Opening and closing a stream over HTTP, with a fresh key: octa-star-streams against bare @fastify/sse, better-sse, and a handler written by hand.
import { inTurn, joined, median, ratios, row } from './kit/pairs.js'
import { startServer } from './kit/processes.js'
import { streamPath, throughput, Wire } from './kit/wire.js'

export const sizes = {
  full: { starts: 3, rounds: 10, milliseconds: 400, connections: 32 },
  moment: { starts: 1, rounds: 2, milliseconds: 30, connections: 4 }
}

export async function run ({ starts, rounds, milliseconds, connections }) {
  const all = []
  // What one process is lucky with, another is not: where its code and its memory happen to lie.
  for (let start = 0; start < starts; start++) all.push(await once(rounds, milliseconds, connections))
  const { octa, bare, betterSse, byHand } = joined(all)
  const what = 'open + close a stream over HTTP, fresh key'
  return {
    rows: [
      row({ what, against: 'the same route on bare `@fastify/sse`, head flushed', values: ratios(octa, bare), atLeast: 0.95, note: 'throughput' }),
      row({ what, against: '`better-sse` on `node:http`', values: ratios(octa, betterSse), above: 1, note: 'throughput; its head has two more headers' }),
      row({ what, against: 'a `res.writeHead` handler by hand', values: ratios(octa, byHand), note: `throughput; bare \`@fastify/sse\` is at ${median(ratios(bare, byHand)).toFixed(2)} of it` })
    ]
  }
}

async function once (rounds, milliseconds, connections) {
  const names = { octa: 'octa', bare: 'bare', betterSse: 'better-sse', byHand: 'by-hand' }
  const servers = []
  const contestants = {}
  try {
    for (const [name, file] of Object.entries(names)) {
      const server = await startServer(file)
      servers.push(server)
      const wires = await Wire.connect(server.port, connections)
      const measure = () => throughput(wires, () => streamPath('close'), milliseconds)
      // Until its code is compiled, and a response has the shape it keeps.
      await throughput(wires, () => streamPath('close'), milliseconds * 2)
      contestants[name] = measure
      servers.push({ close: () => wires.forEach(wire => wire.leave()) })
    }
    return await inTurn(contestants, rounds)
  } finally {
    for (const server of servers.reverse()) await server.close()
  }
}
