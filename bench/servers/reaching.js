// One of three processes: the sender sends to a scope, the receiver has a stream there, and the idle process has a stream in another scope.
import { redisCluster } from 'octa-star-streams/redis'
import { streamKey } from 'octa-star-streams'
import { serve } from '../kit/processes.js'
import { redisClient } from '../kit/redis.js'

const [url, place, scope] = process.argv.slice(2)
const PUBLISH = { lua: "return redis.call('PUBLISH', ARGV[1], ARGV[2])" }
const redis = await redisClient(url, [PUBLISH])
const sha = await redis.script('LOAD', PUBLISH.lua)

// The monotonic clock is the same in all processes of a machine. Unit: nanoseconds.
const now = () => Number(process.hrtime.bigint())
const arrivals = []
const arrived = () => { arrivals.push(now()) }

const member = await redisCluster({ redis }).join({
  log: { warn: console.warn, info () {} },
  replaceTimeout: 5_000,
  deliver () {
    arrived()
    return 1
  },
  list: () => [],
  offlineDelay: 5_000,
  observesScopes: () => false,
  wentOffline () {}
})
const key = streamKey(scope, 'a')
if (place !== 'sender') await member.claim({ key, end () {}, released: new Promise(() => {}) })

const subscriber = redis.duplicate()
let onReply
subscriber.on('message', () => {
  if (place === 'receiver') {
    arrived()
    redis.evalsha(sha, 0, 'raw:sender', 'taken 1')
  } else onReply?.()
})
if (place !== 'idle') await subscriber.subscribe(`raw:${place}`)
const text = `data: ${'x'.repeat(200)}\n\n`

/** Resolves to the time of each call of `send`. */
async function each (count, send) {
  const times = []
  for (let i = 0; i < count; i++) {
    times.push(now())
    await send()
  }
  return times
}

serve(0, {
  id: () => member.id,
  send: count => each(count, async () => {
    if (await member.send({ scope: key.scope, text }) !== 1) throw new Error('the stream did not take the message')
  }),
  raw: count => each(count, () => {
    const replied = new Promise(resolve => { onReply = resolve })
    return Promise.all([replied, redis.evalsha(sha, 0, 'raw:receiver', JSON.stringify({ scope: key.scope, text }))])
  }),
  arrivals: () => arrivals.splice(0)
})
