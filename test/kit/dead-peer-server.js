// Three servers on the build: with deadPeerProbe, without deadPeerProbe, and with deadPeerProbe over HTTP/2. Prints when a stream opens and when a stream is gone.
import Fastify from 'fastify'
import octaStarStreams from 'octa-star-streams'

const say = line => console.log(JSON.stringify(line))

for (const [port, deadPeerProbe, http2] of [[3001, 1_000, false], [3002, 0, false], [3003, 1_000, true]]) {
  const fastify = Fastify({ http2, forceCloseConnections: true })
  await fastify.register(octaStarStreams, { deadPeerProbe })
  fastify.get('/:scope', { sse: 'only' }, async (request, reply) => {
    const { scope } = request.params
    const stream = await reply.startStream(scope)
    say({ event: 'open', port, scope })
    stream.gone.then(reason => say({ event: 'gone', port, scope, reason }))
    stream.keepAlive()
    if (scope !== 'busy') return
    const sending = setInterval(() => stream.send('news'), 2_000)
    stream.onClose(() => clearInterval(sending))
  })
  await fastify.listen({ port, host: '0.0.0.0' })
}
say({ event: 'listening' })
