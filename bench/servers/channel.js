// Registers every session of better-sse on node:http in one channel.
import http from 'node:http'
import { createChannel, createSession } from 'better-sse'
import { broadcasting } from './broadcasting.js'
import { serve } from '../kit/processes.js'

const channel = createChannel()
const server = http.createServer({ keepAliveTimeout: 72_000 }, async (request, response) => {
  // By default a session sends a `retry`, and a comment every ten seconds.
  const session = await createSession(request, response, { retry: null, keepAlive: null })
  response.flushHeaders()
  channel.register(session)
})
// The events are sent without an id, because the other contestants send none. By default each broadcast has a random UUID.
server.listen(0, '127.0.0.1', () => serve(server.address().port, broadcasting(({ event, data }) => { channel.broadcast(data, event, { eventId: '' }) })))
