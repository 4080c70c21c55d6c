// A message to a stream in another process, from the call until that process has the message, against a raw `EVALSHA` of the same
// script and a pub/sub hop. Also counts the messages that reach a process without a stream in the scope.
import { inTurn, median, quantile, ratios, row } from './kit/pairs.js'
import { startServer } from './kit/processes.js'
import { redisClient, startRedis } from './kit/redis.js'

export const sizes = {
  full: { rounds: 31, sends: 200, warmUp: 2_000 },
  moment: { rounds: 2, sends: 6, warmUp: 6 }
}

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

    const measure = (command, count = sends) => async () => {
      const sent = await sender.ask(command, count)
      const arrived = await receiver.ask('arrivals')
      return sent.map((time, i) => (arrived[i] - time) / 1e6)
    }
    for (const command of ['send', 'raw']) await measure(command, warmUp)()
    const { send, raw } = await inTurn({ send: measure('send'), raw: measure('raw') }, rounds)
    const p50 = times => quantile(times, 0.5)
    return {
      rows: [
        row({ what: 'cluster: `send` to a stream in another process, p50 until it is there', against: 'one raw `EVALSHA` of the same script, and one pub/sub hop', values: ratios(send, raw, p50), atMost: 1.3, note: `${micros(send.map(p50))} against ${micros(raw.map(p50))}` }),
        row({ what: 'the same: messages to a process without a stream in the scope', against: 'none', values: [told], unit: '', atMost: 0, note: `while ${(sends * (rounds + 1) + warmUp).toLocaleString('en')} were sent` })
      ]
    }
  } finally {
    for (const thing of toClose.reverse()) await thing.close()
  }
}

const micros = values => `${Math.round(median(values) * 1000)} us`
