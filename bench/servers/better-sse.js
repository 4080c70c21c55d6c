// A better-sse session on node:http. The handler ends the session.
import http from 'node:http'
import { createSession } from 'better-sse'
import { serve } from '../kit/processes.js'

const server = http.createServer({ keepAliveTimeout: 72_000 }, async (request, response) => {
  // Sends only the head. By default better-sse sends a `retry`, and a comment every ten seconds to keep the connection alive.
  await createSession(request, response, { retry: null, keepAlive: null })
  response.flushHeaders()
  response.end()
})
server.listen(0, '127.0.0.1', () => serve(server.address().port))
