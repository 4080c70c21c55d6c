// Opening and closing a stream over HTTP, with a fresh key: octa-star-streams against bare @fastify/sse, better-sse, and a handler written by hand.
import { inTurn, joined, median, ratios, throughputRow } from './kit/pairs.js'
import { startServer } from './kit/processes.js'
import { streamPath, throughput, Wire } from './kit/wire.js'

export const sizes = {
  full: { starts: 3, rounds: 10, milliseconds: 300, connections: 32 },
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
      throughputRow({ what, against: 'the same route on bare `@fastify/sse`, head flushed', as: octa, bs: bare, atLeast: 0.95 }),
      throughputRow({ what, against: '`better-sse` on `node:http`', as: octa, bs: betterSse, above: 1, note: 'its head has two headers more' }),
      throughputRow({ what, against: 'a `res.writeHead` handler by hand', as: octa, bs: byHand, note: `bare \`@fastify/sse\` is at ${median(ratios(bare, byHand, ({ perSecond }) => perSecond)).toFixed(2)} x of it` })
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
      const measure = () => throughput(server, wires, () => streamPath('close'), milliseconds)
      // Until its code is compiled, and a response has the shape it keeps.
      await throughput(server, wires, () => streamPath('close'), milliseconds * 2)
      contestants[name] = measure
      servers.push({ close: () => wires.forEach(wire => wire.leave()) })
    }
    return await inTurn(contestants, rounds)
  } finally {
    for (const server of servers.reverse()) await server.close()
  }
}
