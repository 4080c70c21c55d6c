// Opening and closing a stream over HTTP, with a fresh key: octa-star-streams against bare @fastify/sse, better-sse, and a handler written by hand.
import { inTurn, joined, median, ratios, startedAfresh, throughputRow } from './kit/pairs.js'
import { startServer } from './kit/processes.js'
import { streamPath, throughput, Wire } from './kit/wire.js'

export const sizes = {
  full: { starts: 3, rounds: 10, milliseconds: 300, connections: 32 },
  moment: { starts: 1, rounds: 2, milliseconds: 30, connections: 4 }
}

/** The contestants of each server, and the route of each contestant. */
const CONTESTANTS = {
  octa: { octa: 'close', octaLater: 'later' },
  bare: { bare: 'close', bareLater: 'later', bareUnflushed: 'unflushed', ordinary: 'ordinary', ordinaryLater: 'ordinary-later' },
  'better-sse': { betterSse: 'close' },
  'by-hand': { byHand: 'close' }
}

export async function run ({ starts, rounds, milliseconds, connections }) {
  // Starts the servers several times: the places of code and memory make some processes faster than the rest.
  const all = await startedAfresh(starts, () => once(rounds, milliseconds, connections))
  const { octa, bare, betterSse, byHand, octaLater, bareLater, bareUnflushed, ordinary, ordinaryLater } = joined(all)
  const what = 'open + close a stream over HTTP, fresh key'
  const later = 'open a stream over HTTP, fresh key, and close it a turn later'
  const ordinarily = 'an ordinary reply on bare `@fastify/sse`, which runs `onSend`'
  return {
    rows: [
      throughputRow({ what, against: 'the same route on bare `@fastify/sse`, head flushed', as: octa, bs: bare, note: 'ours runs `onSend` hooks' }),
      throughputRow({ what, against: '`better-sse` on `node:http`', as: octa, bs: betterSse, above: 1, note: 'its head has two headers more' }),
      throughputRow({ what, against: 'a `res.writeHead` handler by hand', as: octa, bs: byHand, note: `bare \`@fastify/sse\` is at ${median(ratios(bare, byHand, ({ perSecond }) => perSecond)).toFixed(2)} x of it` }),
      throughputRow({ what, against: 'bare `@fastify/sse`, nothing flushed', as: octa, bs: bareUnflushed, note: 'each sends all of it in one write' }),
      throughputRow({ what: later, against: 'the same route on bare `@fastify/sse`, head flushed', as: octaLater, bs: bareLater, note: 'each sends it in two writes; ours sends an empty line with the head' }),
      throughputRow({ what: 'the cost of `onSend`: an ordinary reply on bare `@fastify/sse`', against: 'the same route without `onSend`', as: ordinary, bs: bare }),
      throughputRow({ what, against: ordinarily, as: octa, bs: ordinary, note: 'the reply flushes its head' }),
      throughputRow({ what: later, against: ordinarily, as: octaLater, bs: ordinaryLater })
    ]
  }
}

async function once (rounds, milliseconds, connections) {
  const servers = []
  const contestants = {}
  try {
    for (const [file, routes] of Object.entries(CONTESTANTS)) {
      const server = await startServer(file)
      servers.push(server)
      const wires = await Wire.connect(server.port, connections)
      servers.push({ close: () => wires.forEach(wire => wire.leave()) })
      for (const [name, route] of Object.entries(routes)) {
        const measure = time => throughput(server, wires, () => streamPath(route), time)
        // Warms up until V8 has compiled the code, and until a response has its final hidden class.
        await measure(milliseconds * 2)
        contestants[name] = () => measure(milliseconds)
      }
    }
    return await inTurn(contestants, rounds)
  } finally {
    for (const server of servers.reverse()) await server.close()
  }
}
