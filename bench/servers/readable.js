// The ordinary way to stream with Fastify, without a plugin for SSE: `reply.send` of a readable stream. Runs the hooks of an ordinary application.
import { Readable } from 'node:stream'
import Fastify from 'fastify'
import { serve } from '../kit/processes.js'
import { registerHooks } from './hooks.js'

const fastify = Fastify({ forceCloseConnections: true })
await registerHooks(fastify)

fastify.get('/event/:user', (request, reply) => {
  reply.header('content-type', 'text/event-stream').header('cache-control', 'no-cache')
  reply.send(new Readable({
    read () {
      this.push('data: hello\n\n')
      this.push(null)
    }
  }))
})
await fastify.listen({ port: 0, host: '127.0.0.1' })
serve(fastify.server.address().port)
