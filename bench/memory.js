// The memory of a live stream, against a live stream of bare @fastify/sse: how much the heap of each server grows with the streams.
import { closing } from './kit/closing.js'
import { needFiles } from './kit/limits.js'
import { each, inTurn, kibibytes, row } from './kit/pairs.js'
import { settledMemory, startServer } from './kit/processes.js'
import { forEach, streamPath, Wire } from './kit/wire.js'

export const sizes = {
  full: { rounds: 7, streams: 10_000 },
  moment: { rounds: 2, streams: 50 }
}

export function measure ({ rounds, streams }) {
  needFiles(streams + 200)
  return closing(async keep => {
    const contestants = {}
    for (const name of ['octa', 'bare']) {
      const server = keep(await startServer(name))
      contestants[name] = async () => {
        const before = await server.ask('memory')
        const wires = await Wire.connect(server.port, streams)
        await forEach(wires, 100, wire => wire.open(streamPath('open')))
        const bytes = await settledMemory(server) - before
        for (const wire of wires) wire.leave()
        return bytes / streams
      }
    }
    return await inTurn(contestants, rounds)
  })
}

export function rows ({ octa, bare }, { streams }) {
  return {
    rows: [row({ what: `memory of a live stream, of ${streams.toLocaleString('en')}: more`, against: 'a live one of bare `@fastify/sse`', values: each(octa, bare, (a, b) => (a - b) / 1024), unit: 'KiB', atMost: 1, note: `${kibibytes(octa)} against ${kibibytes(bare)}, with its connection and request`, top: { you: 'pay', what: 'the memory of a live stream', than: 'bare `@fastify/sse`', value: '{} KiB more' } })]
  }
}
