// octa-star-streams in an ordinary application. With the argument `hooks`, the application sets cookies in `onSend` hooks. With the argument
// `http2`, the server speaks HTTP/2.
import { setImmediate as turn } from 'node:timers/promises'
import Fastify from 'fastify'
import octaStarStreams from 'octa-star-streams'
import { broadcasting } from './broadcasting.js'
import { delayCommands } from '../kit/delay.js'
import { serve } from '../kit/processes.js'
import { registerHooks } from './hooks.js'

const fastify = Fastify({ forceCloseConnections: true, http2: process.argv.includes('http2') })
await fastify.register(octaStarStreams)
if (process.argv.includes('hooks')) await registerHooks(fastify)

fastify.get('/close/:user', { sse: 'only' }, async (request, reply) => {
  await reply.startStream(request.params.user)
})
fastify.get('/later/:user', { sse: 'only' }, async (request, reply) => {
  await reply.startStream(request.params.user)
  await turn()
})
fastify.get('/event/:user', { sse: 'only' }, async (request, reply) => {
  const stream = await reply.startStream(request.params.user)
  await stream.send('hello')
})
for (const path of ['/open/:user', '/replace/:user']) {
  fastify.get(path, { sse: 'only' }, async (request, reply) => {
    const stream = await reply.startStream(request.params.user)
    stream.keepAlive()
  })
}
fastify.get('/plain', async () => ({ hello: 'world' }))
await fastify.listen({ port: 0, host: '127.0.0.1' })

const { streamRegistry } = fastify
// Sends the same event in each of three ways: to all streams at once, to each stream by its scope, or to each stream itself.
let way = 'broadcast'
const ways = {
  broadcast: message => streamRegistry.broadcast(message),
  scope: async message => { for (const { scopeKey } of [...streamRegistry]) await streamRegistry.send(scopeKey, message) },
  stream: async message => { for (const stream of [...streamRegistry]) await stream.send(message) }
}

serve(fastify.server.address().port, {
  size: () => streamRegistry.size,
  ...broadcasting(message => ways[way](message)),
  sendBy (name) { way = name },
  ...delayCommands()
})
