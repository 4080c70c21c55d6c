// Opening and closing a stream over HTTP, with a fresh key: octa-star-streams against bare @fastify/sse, better-sse, and a handler written by hand.
import { closing } from './kit/closing.js'
import { inTurn, median, ratios, throughputRow } from './kit/pairs.js'
import { startServer } from './kit/processes.js'
import { streamPath, throughput, Wire } from './kit/wire.js'

export const sizes = {
  full: { starts: 4, rounds: 6, milliseconds: 200, connections: 32 },
  moment: { starts: 1, rounds: 2, milliseconds: 30, connections: 4 }
}

/** The contestants of each server, and the route of each contestant. */
const CONTESTANTS = {
  octa: { octa: 'close', octaLater: 'later' },
  bare: { bare: 'close', bareLater: 'later', bareUnflushed: 'unflushed', ordinary: 'ordinary', ordinaryLater: 'ordinary-later' },
  'better-sse': { betterSse: 'close' },
  'by-hand': { byHand: 'close' }
}

export function rows ({ octa, bare, betterSse, byHand, octaLater, bareLater, bareUnflushed, ordinary, ordinaryLater }) {
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

export function measure ({ rounds, milliseconds, connections }) {
  return closing(async keep => {
    const contestants = {}
    for (const [file, routes] of Object.entries(CONTESTANTS)) {
      const server = keep(await startServer(file))
      const wires = await Wire.connectUntilClosed(keep, server.port, connections)
      for (const [name, route] of Object.entries(routes)) {
        const ask = time => throughput(server, wires, () => streamPath(route), time)
        // Warms up until V8 has compiled the code, and until a response has its final hidden class.
        await ask(milliseconds * 2)
        contestants[name] = () => ask(milliseconds)
      }
    }
    return await inTurn(contestants, rounds)
  })
}
