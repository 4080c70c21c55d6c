// The application: three pages with a stream in each, and the routes behind the page's buttons and numbers.
import diagnostics from 'node:diagnostics_channel'
import { readFile } from 'node:fs/promises'
import { setInterval as every } from 'node:timers/promises'
import Fastify from 'fastify'
import octaStarStreams from 'octa-star-streams'

/**
 * `desk` connects the page's buttons to the rest of the demo: `stats()` returns the numbers, `pullCable(except)` freezes every
 * connection except one, and `deduplicate(on)` turns deduplication on or off. If the demo runs in several processes, `place` names this process.
 */
export async function buildApp ({ desk, place, cluster }) {
  const fastify = Fastify({ forceCloseConnections: true })
  let deduplicate = true
  let replaced = 0
  // The name of each stream's connection, made of the two ports. The proxy builds the same name.
  const connections = new WeakMap()
  const connectionOf = request => `${request.socket.localPort}-${request.socket.remotePort}`

  // If the switch is off, no stream has a tab id, so no stream is ever replaced.
  await fastify.register(octaStarStreams, { cluster, browser: '/octa-star/tab-id.js', tabId: request => deduplicate ? request.query.tab : undefined })

  fastify.get('/stream/:page', { sse: 'only' }, async (request, reply) => {
    const stream = await reply.startStream('visitor')
    connections.set(stream, connectionOf(request))
    await stream.send({ retry: 200 })
    let n = 0
    for await (const now of every(1000, () => Date.now(), { signal: stream.signal })) {
      await stream.send({ event: 'tick', data: { n: ++n, at: now(), place } })
    }
  })

  fastify.get('/stats', () => desk.stats())
  fastify.post('/cable', async request => {
    // The connection of this request must not freeze, because the response still has to pass.
    desk.pullCable(connectionOf(request))
    return {}
  })
  fastify.post('/deduplicate', async request => {
    desk.deduplicate(request.body.on === true)
    return {}
  })

  for (const [urls, file, type] of [
    [['/', '/map', '/chat'], 'page.html', 'text/html'],
    [['/page.css'], 'page.css', 'text/css'],
    [['/page.js'], 'page.js', 'text/javascript']
  ]) {
    const content = await readFile(new URL(file, import.meta.url))
    for (const url of urls) fastify.get(url, (request, reply) => reply.type(`${type}; charset=utf-8`).send(content))
  }

  // A connection that was kept alive would freeze with the cable, and the browser would send its next request on the frozen connection.
  fastify.addHook('onSend', async (request, reply) => { reply.header('connection', 'close').header('cache-control', 'no-store') })

  const onReplace = ({ holder }) => { if (connections.has(holder)) replaced++ }
  diagnostics.subscribe('octa-star:stream:replace', onReplace)
  fastify.addHook('onClose', async () => diagnostics.unsubscribe('octa-star:stream:replace', onReplace))

  return {
    fastify,
    report: () => ({ connections: [...fastify.streamRegistry].map(stream => connections.get(stream)), replaced }),
    startOver (on, isFrozen) {
      deduplicate = on
      // A stream that started without a tab id cannot be replaced later, so end every stream. Clients that are still there reconnect.
      for (const stream of fastify.streamRegistry) stream.close(isFrozen(connections.get(stream)) ? 'stalled' : 'finished')
    }
  }
}
