// The same application as in octa.js, without the plugin, and so without streams: as many routes, for the router's sake.
import Fastify from 'fastify'
import { serve } from '../kit/processes.js'

const fastify = Fastify({ forceCloseConnections: true })
for (const path of ['/close/:user', '/open/:user', '/replace/:user']) fastify.get(path, async () => {})
fastify.get('/plain', async () => ({ hello: 'world' }))
await fastify.listen({ port: 0, host: '127.0.0.1' })
serve(fastify.server.address().port)
