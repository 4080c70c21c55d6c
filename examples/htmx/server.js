// Orders that arrive live in every tab, with htmx 2 and its SSE extension. Each tab has one stream, also after a reload or a step back.
import { readFile } from 'node:fs/promises'
import Fastify from 'fastify'
import octaStarStreams from 'octa-star-streams'

// The page loads htmx from a CDN. Set HTMX_JS and HTMX_SSE_JS to load local files instead.
const scripts = [
  ['/htmx.js', process.env.HTMX_JS, 'https://cdn.jsdelivr.net/npm/htmx.org@2.0.11/dist/htmx.min.js'],
  ['/sse.js', process.env.HTMX_SSE_JS, 'https://cdn.jsdelivr.net/npm/htmx-ext-sse@2.2.4/dist/sse.min.js']
]

const USER = 'ann' // your identity for the signed-in user. Never take it from the client
const orders = []

const fastify = Fastify({ forceCloseConnections: true })
// A stream's request has the tab id in the query, and a POST has the tab id among the form's fields.
await fastify.register(octaStarStreams, { browser: '/octa-star/tab-id.js', tabId: request => request.query.tab ?? request.body?.tab })
fastify.addContentTypeParser('application/x-www-form-urlencoded', { parseAs: 'string' }, async (request, body) => Object.fromEntries(new URLSearchParams(body)))

// The stream of a tab. If the tab already has a stream, that stream ends first.
fastify.get('/stream', { sse: 'only' }, async (request, reply) => {
  const stream = await reply.startStream(USER)
  stream.keepAlive()
  await stream.send({ event: 'orders', data: orderList() }) // a page that was away misses no order
})

fastify.post('/orders', async (request, reply) => {
  // A page of another site can make the browser send a POST with the user's cookies.
  if (['cross-site', 'same-site'].includes(request.headers['sec-fetch-site'])) return reply.code(403).send()
  const what = request.body.what?.trim().slice(0, 40)
  if (!what) return reply.code(400).send()
  orders.unshift(what)
  const { tabId, server: { streamRegistry } } = request
  await streamRegistry.send(USER, { event: 'orders', data: orderList() })
  await streamRegistry.send(USER, { event: 'notice', data: `Thank you! Ordered: ${escape(what)}` }, { tabId })
  await streamRegistry.to(USER, { except: tabId }).send({ event: 'notice', data: `Ordered in another tab: ${escape(what)}` })
  return reply.code(204).send()
})

const escape = text => text.replace(/[&<>"']/g, character => `&#${character.charCodeAt(0)};`)
const orderList = () => orders.map(what => `<li>${escape(what)}</li>`).join('') || '<li class="none">None yet</li>'

for (const [path, file] of scripts) {
  const content = file && await readFile(file)
  if (file) fastify.get(path, (request, reply) => reply.type('text/javascript; charset=utf-8').send(content))
}

fastify.get('/', (request, reply) => reply.type('text/html; charset=utf-8').send(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Orders – octa-star-streams with htmx</title>
<link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; --accent: #2563eb; --good: #059669; --line: #8884; }
  body { max-width: 36rem; margin: 0 auto; padding: 1rem; }
  form { display: flex; gap: .75rem; }
  input { flex: 1; min-width: 0; font: inherit; padding: .4rem .75rem; border: 1px solid var(--line); border-radius: .5rem; background: none; }
  ::placeholder { color: inherit; opacity: .6; }
  button { font: inherit; padding: .4rem 1rem; border: 0; border-radius: .5rem; background: var(--accent); color: #fff; cursor: pointer; }
  #notice { min-height: 1.5rem; margin: 1.25rem 0; padding: .6rem .9rem; border-radius: .5rem; background: color-mix(in srgb, var(--good) 14%, transparent); }
  #notice:empty { background: none; }
  ul { list-style: none; margin: 0; padding: 0; }
  li { padding: .6rem 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
  .none { opacity: .75; }
</style>
<script type="module" src="/octa-star/tab-id.js"></script>
${scripts.map(([path, file, cdn]) => `<script src="${file ? path : cdn}"></script>`).join('\n')}
<script>
  htmx.createEventSource = url => new EventSource(url + '?tab=' + octaStar.tabId())
  // Neither the extension nor Chromium opens the stream of a page that comes back from the back/forward cache.
  addEventListener('pageshow', event => { if (event.persisted) location.reload() })
</script>
<body hx-ext="sse" sse-connect="/stream" sse-close="octa-star-closed">
  <h1>Orders</h1>
  <form hx-post="/orders" hx-vals="js:{tab: octaStar.tabId()}" hx-on::after-request="if (event.detail.successful) this.reset()">
    <input name="what" aria-label="What to order" placeholder="What to order" required maxlength="40" autocomplete="off">
    <button>Order</button>
  </form>
  <p id="notice" role="status" sse-swap="notice"></p>
  <ul id="orders" sse-swap="orders">${orderList()}</ul>
</body>
</html>`))

for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => fastify.close())

const port = Number(process.env.PORT ?? 3000)
try {
  await fastify.listen({ port, host: '127.0.0.1' })
  console.log(`The orders are at http://localhost:${fastify.server.address().port}/ (press Ctrl-C to stop)`)
} catch (error) {
  console.error(error.code === 'EADDRINUSE' ? `Port ${port} is in use. Choose another port: PORT=3001 npm run example:htmx` : error)
  process.exitCode = 1
}
