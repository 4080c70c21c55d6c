// A server on the build that runs a block of docs/recipes.md, from the environment variable RECIPE. Prints a line of JSON when the server listens.
import { readlinkSync } from 'node:fs'
import Fastify from 'fastify'
import octaStarStreams from 'octa-star-streams'

const { RECIPE, REDIS_PORT, PORT = '0' } = process.env
// In a PID namespace `process.pid` is 1. The host's /proc tells the number of the process outside.
const outerPid = process.platform === 'linux' ? Number(readlinkSync('/proc/self')) : process.pid
const fastify = Fastify({ forceCloseConnections: true })

async function start () {
  fastify.get('/orders', { sse: 'only' }, async (request, reply) => {
    const stream = await reply.startStream('ann')
    stream.keepAlive()
    await stream.send(String(process.pid))
  })
  fastify.get('/stuck', { sse: 'only' }, async (request, reply) => {
    const stream = await reply.startStream('ann', { name: 'stuck' })
    stream.onClose(() => new Promise(() => {}))
    stream.keepAlive()
  })
  fastify.post('/send', async () => await fastify.streamRegistry.send('ann', 'to all workers'))
  await fastify.listen({ port: Number(PORT), host: '127.0.0.1' })
  process.stdout.write(`${JSON.stringify({ pid: process.pid, outerPid, port: fastify.server.address().port })}\n`)
}

const body = RECIPE
  .replaceAll(/^import (\w+) from '(.+)'$/gm, "const { default: $1 } = await load('$2')")
  .replaceAll(/^import (\{.+\}) from '(.+)'$/gm, "const $1 = await load('$2')")
const AsyncFunction = (async () => {}).constructor
await AsyncFunction('load', 'fastify', 'octaStarStreams', 'start', 'redisOptions', body)(name => import(name), fastify, octaStarStreams, start, { port: Number(REDIS_PORT) })
if (REDIS_PORT === undefined) {
  await fastify.register(octaStarStreams)
  await start()
}
