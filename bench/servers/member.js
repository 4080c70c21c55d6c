// A process that takes turns with a second process in replacing the holder of a key: with octa-star-streams' registry, or with raw commands.
import Fastify from 'fastify'
import octaStarStreams, { streamKey } from 'octa-star-streams'
import { redisCluster } from 'octa-star-streams/redis'
import { CLAIM, RELEASE } from '../../dist/lib/redis/scripts.js'
import { serve } from '../kit/processes.js'
import { redisClient } from '../kit/redis.js'

const [url, place] = process.argv.slice(2)
const redis = await redisClient(url, [CLAIM, RELEASE])
const fastify = Fastify()
await fastify.register(octaStarStreams, { cluster: redisCluster({ redis }) })
await fastify.ready()
const key = streamKey('ann', 'a')

const CHANNELS = 'octa-star-raw:'
const RECORD = `octa-star-raw:{0}:member:${place}`
const SCOPE = 'octa-star-raw:{0}:000000000000000000000000000000000000000'
const subscriber = redis.duplicate()
let answered
let number = 0
subscriber.on('message', (_channel, message) => {
  if (message.startsWith('end')) {
    const number = message.split(' ')[4]
    redis.evalsha(RELEASE.sha, 2, RECORD, SCOPE, place, CHANNELS, 'field', number, number)
  } else answered()
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
    return Promise.all([answer, redis.evalsha(CLAIM.sha, 2, RECORD, SCOPE, place, CHANNELS, 'field', ++number, 600_000, 600_000, 1, 1e16)])
  })
})
