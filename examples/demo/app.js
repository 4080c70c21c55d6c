// The application: three pages with a stream in each, and what the page's buttons and numbers ask for.
import diagnostics from 'node:diagnostics_channel'
import { readFile } from 'node:fs/promises'
import { setInterval as every } from 'node:timers/promises'
import Fastify from 'fastify'
import octaStarStreams from 'octa-star-streams'

/** `desk` is asked for `stats()`, and told to `pullCable()` and to `deduplicate(on)`; `place` names the process, where there are several. */
export async function buildApp ({ desk, place, cluster }) {
  const fastify = Fastify({ forceCloseConnections: true })
  let deduplicate = true
  let replaced = 0
  // The connection of each stream, by the name that the proxy gives it.
  const connections = new WeakMap()

  // With the switch off no stream has a tab id, and so none is ever replaced.
  await fastify.register(octaStarStreams, { cluster, tabId: request => deduplicate ? request.query.tab : undefined })

  fastify.get('/stream/:page', { sse: 'only' }, async (request, reply) => {
    const stream = await reply.startStream('visitor')
    connections.set(stream, `${request.socket.localPort}-${request.socket.remotePort}`)
    await stream.send({ retry: 200 })
    let n = 0
    for await (const now of every(1000, () => Date.now(), { signal: stream.signal })) {
      await stream.send({ event: 'tick', data: { n: ++n, at: now(), place } })
    }
  })

  fastify.get('/stats', () => desk.stats())
  fastify.post('/cable', async () => {
    // When the answer is through: it comes by the same cable.
    setTimeout(() => desk.pullCable(), 100)
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

  // A kept-alive connection would freeze with the cable, and the next request on it with that.
  fastify.addHook('onSend', async (request, reply) => { reply.header('connection', 'close').header('cache-control', 'no-store') })

  const onReplace = ({ stream }) => { if (connections.has(stream)) replaced++ }
  diagnostics.subscribe('octa-star:stream:replace', onReplace)
  fastify.addHook('onClose', async () => diagnostics.unsubscribe('octa-star:stream:replace', onReplace))

  return {
    fastify,
    report: () => ({ connections: [...fastify.streamRegistry].map(stream => connections.get(stream)), replaced }),
    startOver (on, isFrozen) {
      deduplicate = on
      // What was started without a tab id has none to be replaced by. Who still listens comes back.
      for (const stream of fastify.streamRegistry) stream.close(isFrozen(connections.get(stream)) ? 'stalled' : 'finished')
    }
  }
}
