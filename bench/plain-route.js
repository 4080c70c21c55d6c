// A route without `sse` in an application with the plugin, against the same route in the same application without the plugin.
import { closing } from './kit/closing.js'
import { inTurn, throughputRow } from './kit/pairs.js'
import { startServer } from './kit/processes.js'
import { throughput, Wire } from './kit/wire.js'

export const sizes = {
  full: { starts: 24, rounds: 3, milliseconds: 250, connections: 32 },
  moment: { starts: 1, rounds: 2, milliseconds: 30, connections: 4 }
}

export function rows ({ octa, without }) {
  return {
    rows: [throughputRow({ what: 'a route without `sse` in an app with the plugin', against: 'the same app without', as: octa, bs: without, atLeast: 0.99, top: { you: 'pay', what: 'requests to routes without streams', than: 'the same application without the plugin', value: '{} times as many' } })]
  }
}

export function measure ({ rounds, milliseconds, connections }, start) {
  // Two processes of the same application differ by about 2 % for as long as they live, and the process that is measured first may differ from
  // the second. To see 1 %, start the processes many times, and let the two applications alternate in going first.
  const order = start % 2 === 0 ? ['octa', 'without'] : ['without', 'octa']
  return closing(async keep => {
    const contestants = {}
    for (const name of order) {
      const server = keep(await startServer(name))
      const wires = await Wire.connectUntilClosed(keep, server.port, connections)
      contestants[name] = () => throughput(server, wires, () => '/plain', milliseconds)
      // Warms up until V8 has compiled the code.
      for (let i = 0; i < 3; i++) await contestants[name]()
    }
    return await inTurn(contestants, rounds)
  })
}
