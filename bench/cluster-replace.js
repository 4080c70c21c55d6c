// A replacement across two processes, against two raw EVALSHA that each send a message: the same scripts and the same client.
import { closing } from './kit/closing.js'
import { inTurn, micros, p50, ratios, row } from './kit/pairs.js'
import { startServer } from './kit/processes.js'
import { startRedis } from './kit/redis.js'

export const sizes = {
  full: { rounds: 31, replaces: 200, warmUp: 2_000 },
  moment: { rounds: 2, replaces: 6, warmUp: 6 }
}

export function measure ({ rounds, replaces, warmUp }) {
  return closing(async keep => {
    const redis = keep(await startRedis())
    const members = []
    for (const i of [0, 1]) members.push(keep(await startServer('member', redis.url, i)))
    // Each process holds the key that the other process replaces next.
    const replace = (command, count = replaces) => async () => {
      const times = []
      for (let i = 0; i < count; i++) times.push(await members[i % 2].ask(command))
      return times
    }
    for (const command of ['replace', 'raw']) {
      await members[1].ask(command, 'first')
      // Warms up until V8 has compiled the code.
      await replace(command, warmUp)()
    }
    return await inTurn({ octa: replace('replace'), raw: replace('raw') }, rounds)
  })
}

export function rows ({ octa, raw }) {
  return {
    rows: [row({ what: 'cluster: replacement across two processes, p50', against: 'two raw `EVALSHA` that each send a message', values: ratios(octa, raw, p50), atMost: 1.5, note: `${micros(octa.map(p50))} against ${micros(raw.map(p50))}; a claim tells the other process, whose release tells back` })]
  }
}
