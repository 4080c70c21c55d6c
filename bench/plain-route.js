// A route without `sse` in an application with the plugin, against the same route in the same application without the plugin.
import { inTurn, joined, startedAfresh, throughputRow } from './kit/pairs.js'
import { startServer } from './kit/processes.js'
import { throughput, Wire } from './kit/wire.js'

export const sizes = {
  full: { starts: 40, rounds: 3, milliseconds: 250, connections: 32 },
  moment: { starts: 1, rounds: 2, milliseconds: 30, connections: 4 }
}

export async function run ({ starts, ...numbers }) {
  // Two processes of the same application differ by about 2 % for as long as they live, and the process that is measured first may differ from
  // the second. To see 1 %, start the processes many times, and let the two applications alternate in going first.
  const all = await startedAfresh(starts, start => once(start % 2 === 0 ? ['octa', 'without'] : ['without', 'octa'], numbers))
  const { octa, without } = joined(all)
  return {
    rows: [throughputRow({ what: 'a route without `sse` in an app with the plugin', against: 'the same app without', as: octa, bs: without, atLeast: 0.99 })]
  }
}

async function once (order, { rounds, milliseconds, connections }) {
  const toClose = []
  async function contestant (file) {
    const server = await startServer(file)
    const wires = await Wire.connect(server.port, connections)
    toClose.push(server, { close: () => wires.forEach(wire => wire.leave()) })
    const measure = () => throughput(server, wires, () => '/plain', milliseconds)
    // Warms up until V8 has compiled the code.
    for (let i = 0; i < 3; i++) await measure()
    return measure
  }
  try {
    const contestants = {}
    for (const name of order) contestants[name] = await contestant(name)
    return await inTurn(contestants, rounds)
  } finally {
    for (const thing of toClose.reverse()) await thing.close()
  }
}
