// better-sse on node:http: a session that is opened, and ended by its handler.
import http from 'node:http'
import { createSession } from 'better-sse'
import { serve } from '../kit/processes.js'

const server = http.createServer({ keepAliveTimeout: 72_000 }, async (request, response) => {
  // Nothing but the head: by default it sends a `retry` and keeps the connection alive with comments, every ten seconds.
  await createSession(request, response, { retry: null, keepAlive: null })
  response.flushHeaders()
  response.end()
})
server.listen(0, '127.0.0.1', () => serve(server.address().port))
