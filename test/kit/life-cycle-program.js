// The life of streams from the first request to the shutdown, on the build, in one process with its clients. Prints one line of JSON: the reason of
// each stream's end, in order, or the error. Runs in Node, Bun and Deno.
import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import { EventEmitter, on, once } from 'node:events'
import net from 'node:net'
import { setTimeout } from 'node:timers/promises'
import Fastify from 'fastify'
import octaStarStreams from '../../dist/lib/index.js'

const news = new EventEmitter().setMaxListeners(0)
const requests = new AsyncLocalStorage()
const logged = []
const story = []
const reasons = []
let tabs = 0

/** A client with a separate socket. */
class Client {
  text = ''
  #changed = new EventEmitter().setMaxListeners(0)

  constructor (port, path, headers = {}) {
    this.socket = net.connect(port, '127.0.0.1')
    this.socket.setEncoding('utf8')
    this.socket.on('data', text => {
      this.text += text
      this.#changed.emit('change')
    })
    this.socket.on('error', () => {})
    this.socket.on('close', () => this.#changed.emit('change'))
    const lines = Object.entries({ host: '127.0.0.1', accept: 'text/event-stream', ...headers }).map(([name, value]) => `${name}: ${value}\r\n`)
    this.socket.write(`GET ${path} HTTP/1.1\r\n${lines.join('')}\r\n`)
  }

  async has (text) {
    while (!this.text.includes(text)) {
      if (this.socket.closed) throw new Error(`expected ${JSON.stringify(text)}, and the connection closed after ${JSON.stringify(this.text)}`)
      await once(this.#changed, 'change')
    }
    return this
  }

  /** Resolves to `'clean'` when the last chunk has come, and to `'broken'` if the connection closes before. */
  async end () {
    while (!this.text.endsWith('0\r\n\r\n') && !this.socket.closed) await once(this.#changed, 'change')
    const ending = this.text.endsWith('0\r\n\r\n') ? 'clean' : 'broken'
    this.socket.destroy()
    return ending
  }
}

const fastify = Fastify({
  logger: { level: 'warn', stream: { write (line) { logged.push(JSON.parse(line).msg) } } },
  forceCloseConnections: true
})
fastify.addHook('onRequest', (request, _reply, done) => requests.run(request.id, done))
fastify.addHook('onSend', async (_request, reply) => { reply.header('set-cookie', 'seen=yes') })
await fastify.register(octaStarStreams, { browser: '/octa-star/tab-id.js', maxBufferedBytes: 100_000 })

fastify.get('/news', { sse: 'only' }, async (request, reply) => {
  const stream = await reply.startStream('ann')
  const mark = what => story.push(`${request.tabId} ${what}`)
  mark('opened')
  stream.onClose(async reason => {
    assert.equal(requests.getStore(), request.id, 'a cleanup runs in the async context of its request')
    reasons.push(reason)
    await setTimeout(50)
    mark('cleaned up')
  })
  stream.onReplaced(() => stream.send({ event: 'last-word' }))
  try {
    await stream.send('hello')
    for await (const [item] of on(news, 'item', { signal: stream.signal })) await stream.send({ event: 'item', data: item })
  } finally {
    mark('returned')
  }
})

fastify.get('/flood', { sse: 'only' }, async (_request, reply) => {
  const stream = await reply.startStream('flood')
  stream.onClose(reason => reasons.push(reason))
  stream.keepAlive()
  const flood = 'x'.repeat(50_000)
  while (!stream.closing) {
    stream.send(flood)
    await setTimeout(0)
  }
})

fastify.get('/fault', { sse: 'only' }, async (_request, reply) => {
  const stream = await reply.startStream('fault')
  stream.onClose(reason => reasons.push(reason))
  throw new Error('a fault')
})

async function live () {
  const origin = await fastify.listen({ port: 0, host: '127.0.0.1' })
  const { port } = fastify.server.address()
  const { streamRegistry } = fastify
  const open = (path = '/news', tabId = `t${tabs++}`, headers = {}) => new Client(port, `${path}?datastar=${encodeURIComponent(JSON.stringify({ tabId }))}`, headers)
  const allGone = async () => { while (streamRegistry.size > 0) await setTimeout(1) }

  const served = await fetch(`${origin}/octa-star/tab-id.js`, { headers: { connection: 'close' } })
  assert.match(await served.text(), /tabId/, 'the module for pages is served')

  // A stream opens, with the headers of the hooks. The next stream of the tab opens once the old stream is gone.
  const first = await open('/news', 'a').has('data: hello')
  assert.match(first.text, /^HTTP\/1\.1 200 [^]*set-cookie: seen=yes/i)
  const second = await open('/news', 'a').has('data: hello')
  assert.equal(await first.end(), 'clean')
  assert.match(first.text, /event: last-word[^]*event: octa-star-closed/)
  assert.deepEqual(story, ['a opened', 'a returned', 'a cleaned up', 'a opened'])
  const farewell = /id: (octa-star-closed:replaced:\d+)/.exec(first.text)[1]
  const again = await open('/news', 'a', { 'last-event-id': farewell }).has('HTTP/1.1 204')
  again.socket.destroy()

  // Each message reaches exactly the streams of its scope.
  news.emit('item', 'tea')
  await second.has('data: tea')
  assert.equal(await streamRegistry.send('ann', 'to ann'), 1)
  assert.equal(await streamRegistry.send('bob', 'to bob'), 0)
  await second.has('data: to ann')

  // Of any number of streams that race for a tab, a single stream is left.
  const racers = Array.from({ length: 8 }, () => open('/news', 'a'))
  await second.end()
  const left = () => racers.filter(({ text }) => !text.includes('event: octa-star-closed') && !text.includes('HTTP/1.1 204'))
  while (left().length > 1) await setTimeout(1)
  const [winner] = left()
  await winner.has('data: hello')
  assert.equal(streamRegistry.size, 1)

  // An eviction resolves when the streams are gone.
  assert.equal(await streamRegistry.evict('ann'), 1)
  assert.equal(streamRegistry.size, 0)
  await winner.has('data: evicted')
  for (const racer of racers) racer.socket.destroy()
  assert.ok(reasons.splice(1, reasons.length - 2).every(reason => reason === 'replaced'))

  // A client that disconnects, a client that does not read, and a handler that throws.
  const leaver = await open().has('data: hello')
  leaver.socket.destroy()
  await allGone()
  const deaf = open('/flood')
  deaf.socket.pause()
  while (reasons.at(-1) !== 'stalled') await setTimeout(1)
  deaf.socket.destroy()
  await allGone()
  assert.equal(await open('/fault').end(), 'broken')
  await allGone()
  assert.deepEqual(logged.splice(0), ['the handler of the stream on GET /fault threw an error'])

  // The shutdown breaks the streams off, so that the clients reconnect.
  const last = await open().has('data: hello')
  await fastify.close()
  assert.equal(await last.end(), 'broken')
  assert.equal(streamRegistry.size, 0)
  assert.equal(story.filter(line => line.endsWith('cleaned up')).length, story.filter(line => line.endsWith('opened')).length)
  assert.deepEqual(logged, [])
  return reasons
}

try {
  console.log(JSON.stringify(await live()))
  process.exit(0)
} catch (error) {
  console.log(JSON.stringify({ error: error.stack, reasons, story, logged }))
  process.exit(1)
}
