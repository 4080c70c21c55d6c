// The simulation's model of the scripts does what the scripts do in a real Redis.
import fc from 'fast-check'
import t from 'tap'
import { CLAIM, COUNT, EVICT, RELEASE, RESTATE, type Script } from '../../lib/redis/scripts.ts'
import { redisOptions, redisServer } from '../kit/redis.ts'
import { RedisModel } from '../kit/redis-model.ts'
import { seeded } from '../kit/seed.ts'

const LEASE = 60_000
const member = fc.constantFrom('m1', 'm2', 'm3')
const place = fc.record({ scope: fc.constantFrom('s1', 's2'), field: fc.constantFrom('a:', 'a:x', 'b:'), number: fc.integer({ min: 1, max: 6 }) })
// How old a token, or a claim's own time, is when it is used. Unit: seconds, far from what a run of the test lasts.
const age = fc.constantFrom(-20, 0, 20, 40)
const step = fc.oneof(
  fc.record({ type: fc.constant('claim' as const), member, place, age }),
  fc.record({ type: fc.constant('restate' as const), member, places: fc.array(fc.tuple(place, age), { maxLength: 4 }), asked: fc.constantFrom([], ['s2']) }),
  fc.record({ type: fc.constant('release' as const), member, places: fc.array(place, { minLength: 1, maxLength: 3 }) }),
  fc.record({ type: fc.constant('evict' as const), member, scope: fc.constantFrom('s1', 's2'), prefix: fc.constantFrom('', 'a:'), age }),
  fc.record({ type: fc.constant('count' as const), member, scope: fc.constantFrom('s1', 's2') })
)

t.test('each script and its model give the same replies and send the same messages', redisOptions, async t => {
  const server = await redisServer(t)
  const redis = server.client()
  const subscriber = server.client()
  const heard: string[] = []
  subscriber.on('message', (channel, message) => heard.push(`${channel} ${message}`))
  // m3 has no subscription: nobody hears what it is told.
  await subscriber.subscribe('ch:m1', 'ch:m2', 'done')

  await fc.assert(fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 30 }), async steps => {
    await redis.flushall()
    heard.length = 0
    const [seconds, micros] = await redis.time()
    const start = Number(seconds) * 1e6 + Number(micros)
    // Both clocks go on a little with each step, by different amounts: tokens are compared by what they decide.
    let now = start
    const said: string[] = []
    const model = new RedisModel(() => now, (channel, message) => {
      if (channel === 'ch:m3') return 0
      said.push(`${channel} ${message}`)
      return 1
    })
    for (const step of steps) {
      now += 1
      const [script, keys, args] = command(step, start)
      const real = await redis.eval(script.lua, keys.length, ...keys, ...args)
      t.strictSame(comparable(script, real), comparable(script, model.run(script, keys, args)), JSON.stringify(step))
    }
    // Behind all the others on its connection.
    await redis.publish('done', '')
    while (!heard.includes('done ')) await new Promise(resolve => subscriber.once('message', resolve))
    const sorted = (list: string[]) => [...list].sort()
    if (JSON.stringify(sorted(heard.filter(line => line !== 'done '))) !== JSON.stringify(sorted(said))) throw new Error(`said\n${said.join('\n')}\nheard\n${heard.join('\n')}`)
  }), { ...seeded(import.meta.url), numRuns: 300 })
})

function command (drawn: typeof step extends fc.Arbitrary<infer S> ? S : never, start: number): [Script, string[], Array<string | number>] {
  const time = (age: number) => start - age * 1e6
  switch (drawn.type) {
    case 'claim': return [CLAIM, [drawn.place.scope], [drawn.place.field, drawn.member, drawn.place.number, LEASE, 'ch:', time(drawn.age), 10e6]]
    case 'restate': {
      const places = [...drawn.places].sort(([a], [b]) => a.scope < b.scope ? -1 : 1)
      return [RESTATE, [...places.map(([{ scope }]) => scope), ...drawn.asked], [drawn.member, LEASE, 'ch:', 7, ...places.flatMap(([{ field, number }, age]) => [field, number, time(age)])]]
    }
    case 'release': return [RELEASE, drawn.places.map(({ scope }) => scope), [drawn.member, ...drawn.places.flatMap(({ field, number }) => [field, number])]]
    case 'evict': return [EVICT, [drawn.scope], [drawn.member, 9, 'ch:', drawn.prefix, time(drawn.age), 10e6]]
    case 'count': return [COUNT, [drawn.scope], [drawn.member]]
  }
}

// Without what only the clocks decide, and in an order of its own where the script has none.
function comparable (script: Script, reply: unknown): unknown {
  if (script === RELEASE) return null
  if (script === CLAIM) {
    const [token, , ...told] = reply as string[]
    return [token === '', ...told]
  }
  if (script === RESTATE) return (reply as unknown[]).slice(1)
  if (script === EVICT) {
    const list = reply as Array<string | number>
    return Array.from({ length: list.length / 3 }, (_, i) => [list[3 * i], String(list[3 * i + 1]).split(',').sort().join(), list[3 * i + 2]].join(' ')).sort()
  }
  return reply
}
