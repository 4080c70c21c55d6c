// The same application as in octa.js, without the plugin: its one other route.
import Fastify from 'fastify'
import { serve } from '../kit/processes.js'

const fastify = Fastify({ forceCloseConnections: true })
fastify.get('/plain', async () => ({ hello: 'world' }))
await fastify.listen({ port: 0, host: '127.0.0.1' })
serve(fastify.server.address().port)
