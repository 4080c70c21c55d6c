// A small shop on Datastar 1.x: two whole pages, each with a stream that keeps the page up to date.
import { on } from 'node:events'
import { readFile } from 'node:fs/promises'
import { delimiter } from 'node:path'
import Fastify from 'fastify'
import octaStarStreams from 'octa-star-streams'
import { datastar, readSignals } from 'octa-star-streams/datastar'
import { ordersList, ordersPage, page, summary, summaryPage } from './pages.js'
import { Shop } from './shop.js'

// Datastar's documentation loads the client from this CDN. Set DATASTAR_JS to load a local file instead.
const CDN = 'https://cdn.jsdelivr.net/gh/starfederation/datastar@1.0.2/bundles/datastar.js'
const [datastarFile] = process.env.DATASTAR_JS?.split(delimiter) ?? []
const datastarUrl = datastarFile ? '/datastar.js' : CDN

const fastify = Fastify({ forceCloseConnections: true })
const shop = new Shop()

await fastify.register(octaStarStreams, { browser: '/octa-star/tab-id.js' })

// Put your own sign-in here. A stream belongs to the signed-in user: never take the user's id from the client.
fastify.decorateRequest('user', null)
fastify.addHook('onRequest', async request => { request.user = { id: 'ann' } })

// A page of another site can make the browser send a POST with the user's cookies. Every current browser says where a request comes from.
fastify.addHook('onRequest', async (request, reply) => {
  if (request.method === 'POST' && ['cross-site', 'same-site'].includes(request.headers['sec-fetch-site'])) {
    return reply.code(403).send({ message: 'This request comes from another site' })
  }
})

fastify.get('/', (request, reply) => sendPage(reply, '/', ordersPage(shop.orders)))
fastify.get('/summary', (request, reply) => sendPage(reply, '/summary', summaryPage(shop.orders)))

fastify.get('/orders/stream', { sse: 'only' }, (request, reply) => streamShop(request, reply, ordersList))
fastify.get('/summary/stream', { sse: 'only' }, (request, reply) => streamShop(request, reply, summary))

// Streams the shop to a tab. If the tab already has a stream, from this page or from another page, that stream ends before the new stream starts.
async function streamShop (request, reply, render) {
  const stream = await reply.startStream(request.user.id)
  // Listen before the first patch, so that no change is missed while the patch is being sent.
  const changes = on(shop, 'change', { signal: stream.signal })
  await datastar(stream).patchElements(render(shop.orders))
  // Datastar morphs the page: elements that did not change are left alone, so sending the whole list is fine.
  for await (const [orders] of changes) await datastar(stream).patchElements(render(orders))
}

fastify.post('/orders', async (request, reply) => {
  const { item } = readSignals(request)
  if (typeof item !== 'string' || item.trim() === '' || item.length > 60) return reply.code(400).send({ message: 'item must be a string of 1 to 60 characters' })
  shop.place(item.trim())
  // Every open page gets the new order through a stream. The response only clears the form's field.
  return { item: '' }
})

fastify.post('/orders/:id/advance', async (request, reply) => {
  return reply.code(shop.advance(Number(request.params.id)) ? 204 : 404).send()
})

await serveFile('/style.css', new URL('style.css', import.meta.url), 'text/css')
if (datastarFile) await serveFile('/datastar.js', datastarFile, 'text/javascript')

function sendPage (reply, path, content) {
  return reply.type('text/html; charset=utf-8').header('cache-control', 'no-store').send(page(path, datastarUrl, content))
}

async function serveFile (path, file, type) {
  const content = await readFile(file)
  fastify.get(path, (request, reply) => reply.type(`${type}; charset=utf-8`).send(content))
}

const closeShop = shop.open()
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, () => {
    closeShop()
    fastify.close()
  })
}

const port = Number(process.env.PORT ?? 3000)
try {
  await fastify.listen({ port, host: '127.0.0.1' })
  console.log(`The shop is at http://localhost:${fastify.server.address().port}/ (press Ctrl-C to stop)`)
} catch (error) {
  closeShop()
  console.error(error.code === 'EADDRINUSE' ? `Port ${port} is in use. Choose another port: PORT=3001 node examples/datastar/server.js` : error)
  process.exitCode = 1
}
