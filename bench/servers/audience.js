// The clients of a broadcast, in a separate process. One process cannot open enough files for the clients of several servers.
import { awake, forEach, streamPath, Wire } from '../kit/wire.js'
import { serve } from '../kit/processes.js'

let wires = []
let received = 0
let expected = 0
let allReceived
let complete

serve(0, {
  /** Opens `streams` streams, and from then on checks that each client gets each event once and in order. */
  async open ({ port, route, streams }) {
    wires = await Wire.connect(port, streams)
    for (const wire of wires) {
      let last = 0
      let rest = ''
      wire.onBody = text => {
        const lines = (rest + text).split('\n')
        rest = lines.pop()
        for (const line of lines) {
          const number = /^data: ?\{"number":(\d+)/.exec(line)?.[1]
          if (number === undefined) continue
          if (Number(number) !== ++last) throw new Error(`event ${number} came instead of event ${last}`)
          if (++received === expected) allReceived()
        }
      }
    }
    await forEach(wires, 100, wire => wire.open(streamPath(route)))
  },
  /** From now on each client expects `count` more events, and this process does not sleep before all events have come. */
  expect (count) {
    expected += count * wires.length
    complete = awake(() => new Promise(resolve => { allReceived = resolve }))
  },
  /** Resolves when each client has got all the events that it expected. */
  received: () => complete
})
