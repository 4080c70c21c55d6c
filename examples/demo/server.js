// The demo: an application with three pages and a stream in each, behind a cable that can be pulled.
import diagnostics from 'node:diagnostics_channel'
import { readFile } from 'node:fs/promises'
import { setInterval as every } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import octaStarStreams from 'octa-star-streams'
import { startProxy } from './proxy.js'

const SAMPLE_MS = 500
const SAMPLES = 120

export async function startDemo ({ port }) {
  const fastify = Fastify({ forceCloseConnections: true })
  const demo = { deduplicate: true, replaced: 0, history: [] }
  // The port by which the proxy knows a stream's connection.
  const portOf = new WeakMap()
  let proxy

  // With the switch off no stream has a tab id, and so none is ever replaced.
  await fastify.register(octaStarStreams, { tabId: request => demo.deduplicate ? request.query.tab : undefined })

  fastify.get('/stream/:page', { sse: 'only' }, async (request, reply) => {
    const stream = await reply.startStream('visitor')
    portOf.set(stream, request.socket.remotePort)
    await stream.send({ retry: 200 })
    let n = 0
    for await (const now of every(1000, () => Date.now(), { signal: stream.signal })) {
      await stream.send({ event: 'tick', data: { n: ++n, at: now() } })
    }
  })

  const isZombie = stream => proxy.isFrozen(portOf.get(stream))

  function sample () {
    const streams = [...fastify.streamRegistry]
    const zombies = streams.filter(isZombie).length
    return { live: streams.length - zombies, zombies, replaced: demo.replaced }
  }

  fastify.get('/stats', async () => ({ deduplicate: demo.deduplicate, now: sample(), history: demo.history, size: SAMPLES }))

  fastify.post('/cable', async () => {
    // When the answer is through: it comes by the same cable.
    setTimeout(() => proxy.pullCable(), 100)
    return {}
  })

  fastify.post('/deduplicate', async request => {
    demo.deduplicate = request.body.on === true
    // Start over: what was started without a tab id has none to be replaced by. Who still listens comes back.
    for (const stream of fastify.streamRegistry) stream.close(isZombie(stream) ? 'stalled' : 'finished')
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

  const onReplace = ({ stream }) => { if (portOf.has(stream)) demo.replaced++ }
  diagnostics.subscribe('octa-star:stream:replace', onReplace)
  const sampler = setInterval(() => {
    demo.history.push(sample())
    if (demo.history.length > SAMPLES) demo.history.shift()
  }, SAMPLE_MS)

  async function close () {
    clearInterval(sampler)
    diagnostics.unsubscribe('octa-star:stream:replace', onReplace)
    proxy?.close()
    await fastify.close()
  }

  try {
    await fastify.listen({ port: 0, host: '127.0.0.1' })
    proxy = await startProxy({ port, to: fastify.server.address().port })
  } catch (error) {
    await close()
    throw error
  }
  return { url: `http://localhost:${proxy.port}/`, close }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const port = Number(process.env.PORT ?? 3000)
  try {
    const demo = await startDemo({ port })
    console.log(`The demo is at ${demo.url} (Ctrl-C ends it)`)
    for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => demo.close())
  } catch (error) {
    console.error(error.code === 'EADDRINUSE'
      ? `Port ${port} is in use: choose another, as in PORT=3001 npm run demo`
      : `The demo cannot start on port ${port}: ${error.message}`)
    process.exitCode = 1
  }
}
