// A small shop on Datastar 1.x. A POST changes the shop, and then patches the tabs that show the change, in all processes.
import { randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { delimiter } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import Fastify from 'fastify'
import octaStarStreams from 'octa-star-streams'
import { datastar } from 'octa-star-streams/datastar'
import { redisCluster } from 'octa-star-streams/redis'
import { DEPARTMENTS, notice, orderList, page } from './pages.js'
import { RedisShop } from './redis-shop.js'
import { MemoryShop, PRODUCTS } from './shop.js'

// Datastar's documentation loads the client from this CDN. Set DATASTAR_JS to load a local file instead.
const CDN = 'https://cdn.jsdelivr.net/gh/starfederation/datastar@1.0.2/bundles/datastar.js'
const [datastarFile] = process.env.DATASTAR_JS?.split(delimiter) ?? []
const datastarUrl = datastarFile ? '/datastar.js' : CDN

const fastify = Fastify({ forceCloseConnections: true })
let shop = new MemoryShop()
let cluster
if (process.env.REDIS_URL) {
  const { Redis } = await import('ioredis')
  // ioredis reconnects by itself. Requests that need Redis fail meanwhile.
  const redis = new Redis(process.env.REDIS_URL).on('error', () => {})
  // Fastify calls onClose hooks in reverse order: the plugin's hook, which needs Redis, comes before this hook.
  fastify.addHook('onClose', async () => redis.disconnect())
  shop = new RedisShop(redis)
  cluster = redisCluster({ redis })
}

await fastify.register(octaStarStreams, { browser: '/octa-star/tab-id.js', cluster })

// Put your own sign-in here. A stream belongs to the signed-in user: never take a user's id from the client. This shop makes every browser a user,
// with a random cookie that nobody can guess.
fastify.decorateRequest('user', null)
fastify.addHook('onRequest', async (request, reply) => {
  const id = /(?:^|; )shopper=([\da-f-]{36})(?:;|$)/.exec(request.headers.cookie ?? '')?.[1]
  request.user = { id: id ?? randomUUID() }
  if (id === undefined) reply.header('set-cookie', `shopper=${request.user.id}; Path=/; HttpOnly; SameSite=Lax`)
})

// A page of another site can make the browser send a POST with the user's cookies. Every current browser says where a request comes from.
fastify.addHook('onRequest', async (request, reply) => {
  if (request.method === 'POST' && ['cross-site', 'same-site'].includes(request.headers['sec-fetch-site'])) {
    return reply.code(403).send({ message: 'This request comes from another site' })
  }
})

for (const path of Object.keys(DEPARTMENTS)) {
  fastify.get(path, async ({ user }, reply) => {
    reply.type('text/html; charset=utf-8').header('cache-control', 'no-store')
    return page(path, datastarUrl, await shop.stock(), await shop.orders(user.id))
  })
}

// The tabs to which a change is sent: all tabs of all users, or the tabs of one user.
const everybody = datastar({ send: message => fastify.streamRegistry.broadcast(message) })
const tabsOf = (user, options) => datastar(fastify.streamRegistry.to(user.id, options))

const sendStock = async target => target.patchSignals(JSON.stringify({ _stock: await shop.stock() }))
const sendOrders = async (target, user) => target.patchElements(orderList(await shop.orders(user.id)))

// If the tab already has a stream, whatever the page or the process, that stream ends before the new stream starts.
fastify.get('/stream', { sse: 'only' }, async ({ user }, reply) => {
  const stream = await reply.startStream(user.id)
  // A message may be lost, and messages of two processes may change places: so send the state every ten seconds too.
  do {
    await sendStock(datastar(stream))
    await sendOrders(datastar(stream), user)
  } while (await pause(10_000, true, { signal: stream.signal }))
})

fastify.post('/orders/:product', async ({ user, tabId, params: { product } }, reply) => {
  if (!Object.hasOwn(PRODUCTS, product)) return reply.code(404).send()
  const { name } = PRODUCTS[product]
  const thisTab = tabsOf(user, { tabId })
  if (!await shop.order(user.id, product)) {
    await thisTab.patchElements(notice(`Sold out: ${name}`))
    return reply.code(409).send()
  }
  await thisTab.patchElements(notice(`Thank you! Ordered: ${name}`))
  await tabsOf(user, { except: tabId }).patchElements(notice(`Ordered in another tab: ${name}`))
  await sendOrders(tabsOf(user), user)
  await sendStock(everybody)
  return reply.code(204).send()
})

await serveFile('/style.css', new URL('style.css', import.meta.url), 'text/css')
if (datastarFile) await serveFile('/datastar.js', datastarFile, 'text/javascript')

async function serveFile (path, file, type) {
  const content = await readFile(file)
  fastify.get(path, (request, reply) => reply.type(`${type}; charset=utf-8`).send(content))
}

for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => fastify.close())

const port = Number(process.env.PORT ?? 3000)
try {
  await fastify.listen({ port, host: '127.0.0.1' })
  console.log(`The shop is at http://localhost:${fastify.server.address().port}/ (press Ctrl-C to stop)`)
} catch (error) {
  console.error(error.code === 'EADDRINUSE' ? `Port ${port} is in use. Choose another port: PORT=3001 npm run example:datastar` : error)
  process.exitCode = 1
  await fastify.close()
}
