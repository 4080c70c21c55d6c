// The lower bound, a handler written by hand on node:http.
import http from 'node:http'
import { serve } from '../kit/processes.js'

const server = http.createServer({ keepAliveTimeout: 72_000 }, async (request, response) => {
  response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache', Connection: 'keep-alive', 'X-Accel-Buffering': 'no' })
  if (request.url.startsWith('/close/')) response.flushHeaders()
  response.end()
})
server.listen(0, '127.0.0.1', () => serve(server.address().port))
