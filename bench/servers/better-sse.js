// A better-sse session on node:http. The handler ends the session, or replaces the session of the same tab. With the argument `http2`, the
// server speaks HTTP/2.
import http from 'node:http'
import http2 from 'node:http2'
import { createSession } from 'better-sse'
import { serve } from '../kit/processes.js'

const live = new Map()

async function handle (request, response) {
  const replaces = request.url.startsWith('/replace/')
  if (replaces) {
    live.get(request.url)?.end()
    live.set(request.url, response)
    response.on('close', () => { if (live.get(request.url) === response) live.delete(request.url) })
  }
  // Sends only the head. By default better-sse sends a `retry`, and a comment every ten seconds to keep the connection alive.
  await createSession(request, response, { retry: null, keepAlive: null })
  response.flushHeaders()
  if (!replaces) response.end()
}

const server = process.argv.includes('http2') ? http2.createServer(handle) : http.createServer({ keepAliveTimeout: 72_000 }, handle)
server.listen(0, '127.0.0.1', () => serve(server.address().port))
