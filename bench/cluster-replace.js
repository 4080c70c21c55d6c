// A replacement across two processes, against two raw EVALSHA that each send a message: the same scripts and the same client.
import { inTurn, median, quantile, ratios, row } from './kit/pairs.js'
import { startServer } from './kit/processes.js'
import { startRedis } from './kit/redis.js'

export const sizes = {
  full: { rounds: 31, replaces: 200, warmUp: 2_000 },
  moment: { rounds: 2, replaces: 6, warmUp: 6 }
}

export async function run ({ rounds, replaces, warmUp }) {
  const redis = await startRedis()
  const members = []
  try {
    for (const i of [0, 1]) members.push(await startServer('member', redis.url, i))
    // Each process holds the key that the other process replaces next.
    const measure = (command, count = replaces) => async () => {
      const times = []
      for (let i = 0; i < count; i++) times.push(await members[i % 2].ask(command))
      return times
    }
    for (const command of ['replace', 'raw']) {
      await members[1].ask(command, 'first')
      // Warms up until V8 has compiled the code.
      await measure(command, warmUp)()
    }
    const { octa, raw } = await inTurn({ octa: measure('replace'), raw: measure('raw') }, rounds)
    const p50 = times => quantile(times, 0.5)
    return {
      rows: [row({ what: 'cluster: replacement across two processes, p50', against: 'two raw `EVALSHA` that each send a message', values: ratios(octa, raw, p50), atMost: 1.5, note: `${micros(octa.map(p50))} against ${micros(raw.map(p50))}; a claim tells the other process, whose release tells back` })]
    }
  } finally {
    for (const member of members) await member.close()
    await redis.close()
  }
}

const micros = values => `${Math.round(median(values) * 1000)} us`
