// Opening and closing a stream over HTTP, with a fresh key: octa-star-streams against bare @fastify/sse, better-sse, `reply.send` of a readable
// stream, and a handler written by hand.
import { closing } from './kit/closing.js'
import { inTurn, median, ratios, throughputRow } from './kit/pairs.js'
import { startServer } from './kit/processes.js'
import { streamPath, throughput, throughputOfLeavers, Wire } from './kit/wire.js'

export const sizes = {
  // Starts the servers several times: the places of code and memory make some processes faster than the rest.
  full: { starts: 3, rounds: 8, milliseconds: 250, warmUp: 1_000, connections: 32 },
  moment: { rounds: 2, milliseconds: 30, warmUp: 60, connections: 4 }
}

/** The servers, each with its contestants and the route of each contestant. */
const CONTESTANTS = [
  { server: ['octa'], routes: { octa: 'close', octaLater: 'later' }, leavers: { octaLeft: 'open' } },
  { server: ['bare'], routes: { bare: 'close', bareLater: 'later', bareUnflushed: 'unflushed', ordinary: 'ordinary', ordinaryLater: 'ordinary-later' }, leavers: { bareLeft: 'open' } },
  { server: ['octa', 'hooks'], routes: { octaHooks: 'event' } },
  { server: ['readable'], routes: { readableHooks: 'event' } },
  { server: ['better-sse'], routes: { betterSse: 'close' } },
  { server: ['by-hand'], routes: { byHand: 'close', byHandUnflushed: 'unflushed' } }
]

export function measure ({ rounds, milliseconds, warmUp, connections }) {
  return closing(async keep => {
    const contestants = {}
    for (const { server: names, routes, leavers = {} } of CONTESTANTS) {
      const server = keep(await startServer(...names))
      const wires = await Wire.connectUntilClosed(keep, server.port, connections)
      const asks = [
        ...Object.entries(routes).map(([name, route]) => [name, time => throughput(server, wires, () => streamPath(route), time)]),
        ...Object.entries(leavers).map(([name, route]) => [name, time => throughputOfLeavers(server, connections, () => streamPath(route), time)])
      ]
      for (const [name, ask] of asks) {
        // Warms up until V8 has compiled the code, and until a response has its final hidden class.
        await ask(warmUp)
        contestants[name] = () => ask(milliseconds)
      }
    }
    return await inTurn(contestants, rounds)
  })
}

export function rows ({ octa, octaLater, octaLeft, octaHooks, bare, bareLater, bareUnflushed, bareLeft, ordinary, ordinaryLater, readableHooks, betterSse, byHand, byHandUnflushed }) {
  const what = 'open + close a stream over HTTP, fresh key'
  const later = 'open a stream over HTTP, fresh key, and close it a turn later'
  const flushed = 'the same route on bare `@fastify/sse`, head flushed'
  const ordinarily = 'an ordinary reply on bare `@fastify/sse`, which runs `onSend`'
  const oneWrite = 'each sends all of it in one write'
  const bareByHand = median(ratios(bareUnflushed, byHandUnflushed, ({ perCpuSecond }) => perCpuSecond)).toFixed(2)
  const top = (you, what, than) => ({ you, what, than, value: '{} times as many' })
  return {
    rows: [
      throughputRow({ what, against: flushed, as: octa, bs: bare, atLeast: 0.95, note: 'the head goes out at once on both sides; ours runs `onSend` hooks', top: top('pay', 'streams that open and end at once', 'bare `@fastify/sse`, which replaces nothing and runs no hooks') }),
      throughputRow({ what, against: 'bare `@fastify/sse`, nothing flushed', as: octa, bs: bareUnflushed, atLeast: 0.8, note: oneWrite }),
      throughputRow({ what, against: 'a `res.writeHead` handler by hand, head flushed', as: octa, bs: byHand, atLeast: 0.7, note: 'ours sends all of it in one write' }),
      throughputRow({ what, against: 'a `res.writeHead` handler by hand, nothing flushed', as: octa, bs: byHandUnflushed, note: `${oneWrite}; bare \`@fastify/sse\` is at ${bareByHand} x of it` }),
      throughputRow({ what, against: ordinarily, as: octa, bs: ordinary, note: 'the reply flushes its head' }),
      throughputRow({ what, against: '`better-sse` on `node:http`', as: octa, bs: betterSse, above: 1, note: 'its head has two headers more', top: top('get', 'streams that open and end at once', '`better-sse`') }),
      throughputRow({ what: later, against: flushed, as: octaLater, bs: bareLater, atLeast: 0.8, note: 'each sends it in two writes; ours sends an empty line with the head' }),
      throughputRow({ what: later, against: ordinarily, as: octaLater, bs: ordinaryLater, atLeast: 0.9, note: 'each sends it in two writes', top: top('pay', 'streams that open, and end a turn of the event loop later', 'bare `@fastify/sse` behind `reply.send`, which runs the hooks too') }),
      throughputRow({ what: 'the cost of `onSend`: an ordinary reply on bare `@fastify/sse`', against: 'the same route without `onSend`', as: ordinary, bs: bare }),
      throughputRow({ what: 'a stream with one event, in an application with `@fastify/cookie` and `@fastify/session`', against: '`reply.send` of a readable stream, with the same hooks', as: octaHooks, bs: readableHooks, atLeast: 1, note: 'each sets both cookies', top: top('pay', 'streams in an application with cookies and sessions', '`reply.send(readable)`, which replaces nothing') }),
      throughputRow({ what: 'a client that leaves at once: connects, opens a stream, and resets the connection after the head', against: 'the same on bare `@fastify/sse`', as: octaLeft, bs: bareLeft, atLeast: 0.95 })
    ]
  }
}
