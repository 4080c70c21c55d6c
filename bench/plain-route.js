// A route without `sse` in an application with the plugin, against the same application without it.
import { inTurn, joined, throughputRow } from './kit/pairs.js'
import { startServer } from './kit/processes.js'
import { throughput, Wire } from './kit/wire.js'

export const sizes = {
  full: { starts: 5, rounds: 12, milliseconds: 250, connections: 32 },
  moment: { starts: 1, rounds: 2, milliseconds: 30, connections: 4 }
}

export async function run ({ starts, ...numbers }) {
  const all = []
  for (let start = 0; start < starts; start++) all.push(await once(numbers))
  const { octa, without } = joined(all)
  return {
    rows: [throughputRow({ what: 'a route without `sse` in an app with the plugin', against: 'the same app without', as: octa, bs: without, atLeast: 0.99 })]
  }
}

async function once ({ rounds, milliseconds, connections }) {
  const toClose = []
  async function contestant (file) {
    const server = await startServer(file)
    const wires = await Wire.connect(server.port, connections)
    toClose.push(server, { close: () => wires.forEach(wire => wire.leave()) })
    const measure = () => throughput(server, wires, () => '/plain', milliseconds)
    // Until its code is compiled.
    for (let i = 0; i < 3; i++) await measure()
    return measure
  }
  try {
    return await inTurn({ octa: await contestant('octa'), without: await contestant('without') }, rounds)
  } finally {
    for (const thing of toClose.reverse()) await thing.close()
  }
}
