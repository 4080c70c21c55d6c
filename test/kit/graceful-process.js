// A server on the build that shuts down as in the README. Prints a line of JSON for each step.
import closeWithGrace from 'close-with-grace'
import Fastify from 'fastify'
import octaStarStreams from 'octa-star-streams'

const say = line => process.stdout.write(`${JSON.stringify(line)}\n`)
const fastify = Fastify({ forceCloseConnections: 'idle' })
await fastify.register(octaStarStreams, { tabId: request => request.query.tab, replaceTimeout: Number(process.env.REPLACE_TIMEOUT ?? 500) })

// Names the process, and makes the client reconnect while the server closes.
const introduce = stream => stream.send({ retry: 20, data: process.env.NAME })
const behaviour = {
  subscribes: stream => stream.keepAlive(),
  'cleans up': stream => {
    stream.keepAlive()
    stream.onClose(async () => {
      await new Promise(resolve => setTimeout(resolve, 100))
      say({ event: 'cleaned up' })
    })
  },
  'cleans up for two seconds': async stream => {
    stream.keepAlive()
    stream.onClose(() => new Promise(resolve => setTimeout(resolve, 2_000)))
    await introduce(stream)
  },
  'ignores its signal': async stream => {
    await introduce(stream)
    await new Promise(() => {})
  },
  hangs: () => new Promise(() => {}),
  'has a listener that throws': stream => {
    stream.keepAlive()
    stream.signal.addEventListener('abort', () => { throw new Error('a fault in a listener') })
  }
}
fastify.get('/stream/:behaviour', { sse: 'only' }, async (request, reply) => {
  const stream = await reply.startStream('ann')
  stream.gone.then(reason => say({ event: 'gone', tab: stream.tabId, reason }))
  await behaviour[request.params.behaviour](stream)
})
fastify.get('/throw', async () => {
  setImmediate(() => { throw new Error('a fault somewhere') })
  return 'soon'
})

if (process.env.SURVIVE) process.on('uncaughtException', error => say({ event: 'survived', error: error.message }))
else {
  closeWithGrace({ logger: false }, async ({ err, signal }) => {
    say({ event: 'closing', signal, error: err?.message })
    await fastify.close()
    say({ event: 'closed' })
  })
}
await fastify.listen({ port: Number(process.env.PORT ?? 0), host: '127.0.0.1' })
say({ event: 'listening', port: fastify.server.address().port })
