// The first example of the README: a clock in a page, and the number of live streams. Run `node examples/basic/server.js` after `npm run build`.
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import octaStarStreams from 'octa-star-streams'

const fastify = Fastify()
await fastify.register(octaStarStreams, { browser: '/octa-star/tab-id.js', tabId: request => request.query.tab })

fastify.get('/clock', { sse: 'only' }, async (request, reply) => {
  const stream = await reply.startStream('ann') // your identity for the signed-in user
  for (;;) {
    await stream.send(`${new Date().toLocaleTimeString()}, live streams: ${fastify.streamRegistry.size}`)
    await sleep(1000, undefined, { signal: stream.signal })
  }
})

fastify.get('/', (request, reply) => reply.type('text/html').send(`
  <h1>Connecting</h1>
  <script type="module">
    import { tabId } from '/octa-star/tab-id.js'
    let source
    function open () {
      source?.close()
      source = new EventSource('/clock?tab=' + tabId())
      source.onmessage = event => { document.querySelector('h1').textContent = event.data }
      source.addEventListener('octa-star-closed', event => event.target.close()) // evicted, or replaced
    }
    open()
    addEventListener('pageshow', event => { if (event.persisted) setTimeout(open) }) // back from the back/forward cache
  </script>`))

await fastify.listen({ port: 3000 })
