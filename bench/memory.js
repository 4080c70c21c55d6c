// The memory of a live stream, against a live stream of bare @fastify/sse: how much the heap of each server grows with the streams.
import { needFiles } from './kit/limits.js'
import { each, inTurn, row } from './kit/pairs.js'
import { startServer } from './kit/processes.js'
import { forEach, streamPath, Wire } from './kit/wire.js'

export const sizes = {
  full: { rounds: 7, streams: 10_000 },
  moment: { rounds: 2, streams: 50 }
}

export async function run ({ rounds, streams }) {
  needFiles(streams + 200)
  const servers = []
  async function contestant (file) {
    const server = await startServer(file)
    servers.push(server)
    return async () => {
      const before = await server.ask('memory')
      const wires = await Wire.connect(server.port, streams)
      await forEach(wires, 100, wire => wire.open(streamPath('open')))
      const bytes = await server.ask('memory') - before
      for (const wire of wires) wire.leave()
      return bytes / streams
    }
  }
  try {
    const { octa, bare } = await inTurn({ octa: await contestant('octa'), bare: await contestant('bare') }, rounds)
    return {
      rows: [row({ what: `memory of a live stream, of ${streams.toLocaleString('en')}: more`, against: 'a live one of bare `@fastify/sse`', values: each(octa, bare, (a, b) => (a - b) / 1024), unit: 'KiB', atMost: 1.5, note: `${kibibytes(octa)} against ${kibibytes(bare)}, with its connection and request` })]
    }
  } finally {
    for (const server of servers) await server.close()
  }
}

const kibibytes = values => `${(values.reduce((a, b) => a + b) / values.length / 1024).toFixed(1)} KiB`
