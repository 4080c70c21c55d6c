// One of two processes that replace each other's holder of one key: by the registry of octa-star-streams, and with raw commands.
import Fastify from 'fastify'
import octaStarStreams, { streamKey } from 'octa-star-streams'
import { redisCluster } from 'octa-star-streams/redis'
import { CLAIM } from '../../dist/lib/redis/scripts.js'
import { serve } from '../kit/processes.js'
import { redisClient } from '../kit/redis.js'

const [url, place] = process.argv.slice(2)
const redis = await redisClient(url, [CLAIM])
const fastify = Fastify()
await fastify.register(octaStarStreams, { cluster: redisCluster({ redis }) })
await fastify.ready()
const key = streamKey('ann', 'a')

const CHANNELS = 'octa-star-raw:'
const subscriber = redis.duplicate()
let answered
let number = 0
subscriber.on('message', (_channel, message) => {
  const [what, , from, answer] = message.split(' ')
  if (what === 'end') redis.publish(CHANNELS + from, `gone replaced ${place} ${answer}`)
  else answered()
})
await subscriber.subscribe(CHANNELS + place)

async function timed (task) {
  const start = performance.now()
  await task()
  return performance.now() - start
}

serve(0, {
  replace: () => timed(() => {
    let close
    const gone = new Promise(resolve => { close = resolve })
    return fastify.streamRegistry.replaceAndRegister(key, { close, gone })
  }),
  raw: first => timed(() => {
    const answer = first ? undefined : new Promise(resolve => { answered = resolve })
    return Promise.all([answer, redis.evalsha(CLAIM.sha, 1, 'octa-star-raw:{0}:00000000000000000000000000000000000000', 'field', place, ++number, 30_000, CHANNELS, Date.now() * 1000, 1_000_000)])
  })
})
