// The application of octa.js without the plugin, and so without streams. Has as many routes, so that the router has as much work.
import Fastify from 'fastify'
import { serve } from '../kit/processes.js'

const fastify = Fastify({ forceCloseConnections: true })
for (const path of ['/close/:user', '/later/:user', '/event/:user', '/open/:user', '/replace/:user']) fastify.get(path, async () => {})
fastify.get('/plain', async () => ({ hello: 'world' }))
await fastify.listen({ port: 0, host: '127.0.0.1' })
serve(fastify.server.address().port)
