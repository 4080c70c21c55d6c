// A small shop on Datastar 1.x: two whole pages, and each has a stream that keeps it as the shop is.
import { on } from 'node:events'
import { readFile } from 'node:fs/promises'
import { delimiter } from 'node:path'
import Fastify from 'fastify'
import octaStarStreams from 'octa-star-streams'
import { datastar, readSignals } from 'octa-star-streams/datastar'
import { ordersList, ordersPage, page, summary, summaryPage } from './pages.js'
import { Shop } from './shop.js'

// From the CDN, as Datastar's own documentation has it; without the internet from a file.
const CDN = 'https://cdn.jsdelivr.net/gh/starfederation/datastar@1.0.2/bundles/datastar.js'
const [datastarFile] = process.env.DATASTAR_JS?.split(delimiter) ?? []
const datastarUrl = datastarFile ? '/datastar.js' : CDN

const fastify = Fastify({ forceCloseConnections: true })
const shop = new Shop()

await fastify.register(octaStarStreams, { browser: '/octa-star/tab-id.js' })

// Put your own sign-in here. Streams belong to a user, and never to what a client says of itself.
fastify.decorateRequest('user', null)
fastify.addHook('onRequest', async request => { request.user = { id: 'ann' } })

fastify.get('/', (request, reply) => sendPage(reply, '/', ordersPage(shop.orders)))
fastify.get('/summary', (request, reply) => sendPage(reply, '/summary', summaryPage(shop.orders)))

fastify.get('/orders/stream', { sse: 'only' }, (request, reply) => streamShop(request, reply, ordersList))
fastify.get('/summary/stream', { sse: 'only' }, (request, reply) => streamShop(request, reply, summary))

// A stream of the page's tab, wherever in the shop that tab was before: its earlier stream has ended when this one starts.
async function streamShop (request, reply, render) {
  const stream = await reply.startStream(request.user.id)
  // Listens from here on: what changes while the first patch is under way is not missed.
  const changes = on(shop, 'change', { signal: stream.signal })
  await datastar(stream).patchElements(render(shop.orders))
  // Datastar morphs: what did not change in the page is left alone, so the whole list may be sent.
  for await (const [orders] of changes) await datastar(stream).patchElements(render(orders))
}

fastify.post('/orders', async (request, reply) => {
  const { item } = readSignals(request)
  if (typeof item !== 'string' || item.trim() === '' || item.length > 60) return reply.code(400).send({ message: 'item must be a text of 1 to 60 characters' })
  shop.place(item.trim())
  // Every page learns of it by its stream; this one has its field cleared.
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
  console.log(`The shop is at http://localhost:${fastify.server.address().port}/ (Ctrl-C closes it)`)
} catch (error) {
  closeShop()
  console.error(error.code === 'EADDRINUSE' ? `Port ${port} is in use: choose another, as in PORT=3001` : error)
  process.exitCode = 1
}
