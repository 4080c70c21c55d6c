// A message to a stream in another process, from the call until that process has the message, against a raw `EVALSHA` of the same
// script and a pub/sub hop. Also counts the messages that reach a process without a stream in the scope.
import { inTurn, median, quantile, ratios, row } from './kit/pairs.js'
import { startServer } from './kit/processes.js'
import { redisClient, startRedis } from './kit/redis.js'

export const sizes = {
  full: { rounds: 31, sends: 200, warmUp: 2_000 },
  moment: { rounds: 2, sends: 6, warmUp: 6 }
}

/** Unit: milliseconds. */
const PAUSE = 2

export async function run ({ rounds, sends, warmUp }) {
  const redis = await startRedis()
  const toClose = [redis]
  try {
    const start = async (place, scope) => {
      const server = await startServer('reaching', redis.url, place, scope)
      toClose.push(server)
      return server
    }
    const receiver = await start('receiver', 'ann')
    const idle = await start('idle', 'bob')
    const sender = await start('sender', 'ann')
    const ear = await redisClient(redis.url)
    toClose.push({ close: () => ear.disconnect() })
    let told = 0
    ear.on('message', (_channel, message) => { if (!message.startsWith('beat')) told++ })
    await ear.subscribe(`octa-star:member:${await idle.ask('id')}`)

    const measure = (command, pause = 0, count = sends) => async () => {
      const sent = await sender.ask(command, { count, pause })
      const arrived = await receiver.ask('arrivals')
      return sent.map((time, i) => (arrived[i] - time) / 1e6)
    }
    for (const command of ['send', 'raw']) await measure(command, 0, warmUp)()
    const p50 = times => quantile(times, 0.5)
    const against = 'one raw `EVALSHA` of the same script, and one pub/sub hop'
    // Each message finds idle processes, as in an application. Without a pause the gap between two messages, which is longer with
    // `send`, decides how deep the other processes' processors sleep.
    const alone = await inTurn({ send: measure('send', PAUSE), raw: measure('raw', PAUSE) }, rounds)
    const inRow = await inTurn({ send: measure('send'), raw: measure('raw') }, rounds)
    const note = ({ send, raw }) => `${micros(send.map(p50))} against ${micros(raw.map(p50))}`
    return {
      rows: [
        row({ what: 'cluster: `send` to a stream in another process, p50 until it is there', against, values: ratios(alone.send, alone.raw, p50), atMost: 1.3, note: `${note(alone)}; a message every ${PAUSE} ms` }),
        row({ what: 'the same, each message as soon as the last one was answered', against, values: ratios(inRow.send, inRow.raw, p50), note: note(inRow) }),
        row({ what: 'the same: messages to a process without a stream in the scope', against: 'none', values: [told], unit: '', atMost: 0, note: `while ${(2 * sends * rounds + warmUp).toLocaleString('en')} were sent` })
      ]
    }
  } finally {
    for (const thing of toClose.reverse()) await thing.close()
  }
}

const micros = values => `${Math.round(median(values) * 1000)} us`
