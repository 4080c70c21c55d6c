// A broadcast, one event to each stream until the last `send` has resolved: against `reply.sse.send` of bare @fastify/sse.
import { inTurn, joined, ratios, row } from './kit/pairs.js'
import { startServer } from './kit/processes.js'
import { forEach, streamPath, Wire } from './kit/wire.js'

export const sizes = {
  full: { starts: 3, rounds: 30, streams: 1_000 },
  moment: { starts: 1, rounds: 2, streams: 20 }
}

export async function run ({ starts, rounds, streams }) {
  const all = []
  for (let start = 0; start < starts; start++) all.push(await once(rounds, streams))
  const { octa, bare } = joined(all)
  return {
    // Of throughput, so the other way round than the times.
    rows: [row({ what: `broadcast: ${streams.toLocaleString('en')} streams, one event to each`, against: 'bare `reply.sse.send`', values: ratios(bare, octa), atLeast: 0.95, note: 'throughput; each client saw each event once' })]
  }
}

async function once (rounds, streams) {
  const toClose = []
  async function contestant (file, route) {
    const server = await startServer(file)
    const wires = await Wire.connect(server.port, streams)
    toClose.push(server, { close: () => wires.forEach(wire => wire.leave()) })
    let received = 0
    let all
    for (const wire of wires) {
      let last = 0
      wire.onBody = text => {
        for (const [, number] of text.matchAll(/data: \{"number":(\d+)/g)) {
          if (Number(number) !== ++last) throw new Error(`event ${number} came where ${last} was due`)
          if (++received === streams) all()
        }
      }
    }
    await forEach(wires, 100, wire => wire.open(streamPath(route)))
    let number = 0
    const measure = async () => {
      received = 0
      const everybody = new Promise(resolve => { all = resolve })
      const time = await server.ask('broadcast', ++number)
      await everybody
      return time
    }
    for (let i = 0; i < 10; i++) await measure()
    return measure
  }
  try {
    return await inTurn({ octa: await contestant('octa', 'open'), bare: await contestant('bare', 'send') }, rounds)
  } finally {
    for (const thing of toClose.reverse()) await thing.close()
  }
}
