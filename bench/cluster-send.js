// A message to a stream in another process, from the call until that process has the message, against a raw `EVALSHA` of the same
// script and a pub/sub hop. Also counts the messages that reach a process without a stream in the scope.
import { closing } from './kit/closing.js'
import { countRow, inTurn, micros, p50, ratios, row } from './kit/pairs.js'
import { startServer } from './kit/processes.js'
import { redisClient, startRedis } from './kit/redis.js'

export const sizes = {
  full: { rounds: 31, sends: 200, warmUp: 2_000 },
  moment: { rounds: 2, sends: 6, warmUp: 6 }
}

/** Unit: milliseconds. */
const PAUSE = 2

export function measure ({ rounds, sends, warmUp }) {
  return closing(async keep => {
    const redis = keep(await startRedis())
    const start = async (place, scope) => keep(await startServer('reaching', redis.url, place, scope))
    const receiver = await start('receiver', 'ann')
    const idle = await start('idle', 'bob')
    const sender = await start('sender', 'ann')
    const ear = await redisClient(redis.url)
    keep({ close: () => ear.disconnect() })
    let told = 0
    ear.on('message', (_channel, message) => { if (!message.startsWith('beat')) told++ })
    await ear.subscribe(`octa-star:member:${await idle.ask('id')}`)

    const each = (command, pause = 0, count = sends) => async () => {
      const sent = await sender.ask(command, { count, pause })
      const arrived = await receiver.ask('arrivals')
      return sent.map((time, i) => (arrived[i] - time) / 1e6)
    }
    for (const command of ['send', 'raw']) await each(command, 0, warmUp)()
    // With a pause each message finds idle processes, as in an application. Without a pause the gap between two messages, which is longer
    // with `send`, decides how deep the processors of the other processes sleep.
    const { send, raw } = await inTurn({ send: each('send', PAUSE), raw: each('raw', PAUSE) }, rounds)
    const close = await inTurn({ send: each('send'), raw: each('raw') }, rounds)
    return { send, raw, closeSend: close.send, closeRaw: close.raw, told: [told] }
  })
}

export function rows ({ send, raw, closeSend, closeRaw, told }, { rounds, sends, warmUp }) {
  const against = 'one raw `EVALSHA` of the same script, and one pub/sub hop'
  const note = (send, raw) => `${micros(send.map(p50))} against ${micros(raw.map(p50))}`
  return {
    rows: [
      row({ what: 'cluster: `send` to a stream in another process, p50 until it is there', against, values: ratios(send, raw, p50), atMost: 1.3, note: `${note(send, raw)}; a message every ${PAUSE} ms` }),
      row({ what: 'the same, each message as soon as the last message was answered', against, values: ratios(closeSend, closeRaw, p50), note: note(closeSend, closeRaw) }),
      countRow({ what: 'the same: messages to a process without a stream in the scope', counts: told, note: `while ${((2 * sends * rounds + warmUp) * told.length).toLocaleString('en')} were sent` })
    ]
  }
}
