// Bare @fastify/sse with the same behaviour for the client as octa-star-streams: sends the head at once, ends streams, and replaces streams.
// With the argument `http2`, the server speaks HTTP/2.
import { EventEmitter } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import Fastify from 'fastify'
import { fastifySSE } from '@fastify/sse'
import { broadcasting } from './broadcasting.js'
import { delayCommands } from '../kit/delay.js'
import { serve } from '../kit/processes.js'

const fastify = Fastify({ forceCloseConnections: true, http2: process.argv.includes('http2') })
await fastify.register(fastifySSE)

const opened = new Set()
const live = new Map()

function open (reply) {
  reply.sse.sendHeaders()
  // @fastify/sse leaves the head in Node's buffer until the first byte of the body.
  reply.raw.flushHeaders()
}

// @fastify/sse ends the response when the handler returns.
fastify.get('/close/:user', { sse: 'only' }, async (request, reply) => {
  open(reply)
})
fastify.get('/later/:user', { sse: 'only' }, async (request, reply) => {
  open(reply)
  await turn()
})
fastify.get('/unflushed/:user', { sse: 'only' }, async (request, reply) => {
  reply.sse.sendHeaders()
})
// An ordinary reply: Fastify runs the onSend hooks, and then calls `pipe` of the payload, which takes the response over.
class Takeover extends EventEmitter {
  constructor (onPipe) {
    super()
    this.onPipe = onPipe
  }

  pipe (destination) {
    this.emit('end')
    this.onPipe()
    return destination
  }
}
const openOrdinarily = reply => new Promise(resolve => {
  reply.type('text/event-stream').send(new Takeover(() => {
    reply.hijack()
    open(reply)
    resolve()
  }))
})
fastify.get('/ordinary/:user', { sse: 'only' }, async (request, reply) => {
  await openOrdinarily(reply)
})
fastify.get('/ordinary-later/:user', { sse: 'only' }, async (request, reply) => {
  await openOrdinarily(reply)
  await turn()
})
fastify.get('/open/:user', { sse: 'only' }, async (request, reply) => {
  reply.sse.keepAlive()
  open(reply)
})
fastify.get('/send/:user', { sse: 'only' }, async (request, reply) => {
  reply.sse.keepAlive()
  open(reply)
  opened.add(reply.sse)
})
fastify.get('/replace/:user', { sse: 'only' }, async (request, reply) => {
  const key = request.params.user + request.query.datastar
  live.get(key)?.end()
  live.set(key, reply.raw)
  reply.raw.on('close', () => { if (live.get(key) === reply.raw) live.delete(key) })
  reply.sse.keepAlive()
  open(reply)
})
await fastify.listen({ port: 0, host: '127.0.0.1' })

serve(fastify.server.address().port, {
  ...broadcasting(message => Promise.all(Array.from(opened, sse => sse.send(message)))),
  ...delayCommands()
})
