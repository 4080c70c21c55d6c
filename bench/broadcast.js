// A broadcast, one event to each stream until the last `send` has resolved: against `reply.sse.send` of bare @fastify/sse.
import { inTurn, joined, ratios, row, startedAfresh } from './kit/pairs.js'
import { startServer } from './kit/processes.js'
import { forEach, streamPath, Wire } from './kit/wire.js'

export const sizes = {
  full: { starts: 5, rounds: 30, streams: 1_000, warmUp: 30 },
  moment: { starts: 1, rounds: 2, streams: 20, warmUp: 2 }
}

export async function run ({ starts, ...numbers }) {
  const { octa, bare } = joined(await startedAfresh(starts, () => once(numbers)))
  return {
    // Of throughput, so the other way round than the times.
    rows: [row({ what: `broadcast: ${numbers.streams.toLocaleString('en')} streams, one event to each`, against: 'bare `reply.sse.send`', values: ratios(bare, octa), atLeast: 0.95, note: 'throughput; each client saw each event once' })]
  }
}

async function once ({ rounds, streams, warmUp }) {
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
    return measure
  }
  try {
    const contestants = { octa: await contestant('octa', 'open'), bare: await contestant('bare', 'send') }
    // Until their code is compiled; and in turn, for the first sixteen packets after a pause Linux acknowledges at once, within
    // the sender's write, which takes a third longer: the one that had waited for the other to warm up would pay for it.
    await inTurn(contestants, warmUp)
    return await inTurn(contestants, rounds)
  } finally {
    for (const thing of toClose.reverse()) await thing.close()
  }
}
