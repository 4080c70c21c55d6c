// One of three processes: the sender sends to a scope, the receiver has a stream there, and the idle process has a stream in another scope.
import { setTimeout } from 'node:timers/promises'
import { redisCluster } from 'octa-star-streams/redis'
import { streamKey } from 'octa-star-streams'
import { REPLY, SEND } from '../../dist/lib/redis/scripts.js'
import { serve } from '../kit/processes.js'
import { redisClient } from '../kit/redis.js'

const [url, place, scope] = process.argv.slice(2)
const redis = await redisClient(url, [REPLY, SEND])

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

// The same scripts, sent by hand with separate records. The receiver is the only member with a claim in the scope.
const CHANNELS = 'octa-star-raw:'
const PREFIX = 'octa-star-raw:{0}:'
const RECORD = `${PREFIX}member:${place}`
const DIGEST = '0'.repeat(40)
if (place === 'receiver') {
  await redis.hset(RECORD, 'ops', 1)
  await redis.hset(PREFIX + DIGEST.slice(1), '@', 'receiver 1')
}
const subscriber = redis.duplicate()
let onReply
subscriber.on('message', () => {
  if (place === 'receiver') {
    arrived()
    redis.evalsha(REPLY.sha, 1, RECORD, place, CHANNELS, 'sender', 'taken 1')
  } else onReply?.()
})
if (place !== 'idle') await subscriber.subscribe(CHANNELS + place)
const text = `data: ${'x'.repeat(200)}\n\n`

/** Calls `send` again and again, `pause` milliseconds after the end of the last call. Resolves to the time of each call. */
async function each ({ count, pause }, send) {
  const times = []
  for (let i = 0; i < count; i++) {
    if (pause > 0) await setTimeout(pause)
    times.push(now())
    await send()
  }
  return times
}

serve(0, {
  id: () => member.id,
  send: how => each(how, async () => {
    if (await member.send({ scope: key.scope, text }) !== 1) throw new Error('the stream did not take the message')
  }),
  raw: how => each(how, () => {
    const replied = new Promise(resolve => { onReply = resolve })
    return Promise.all([replied, redis.evalsha(SEND.sha, 1, RECORD, place, CHANNELS, DIGEST, JSON.stringify({ scope: key.scope, text }))])
  }),
  arrivals: () => arrivals.splice(0)
})
