// Cases of pipelining that the fuzz test has found.
import { once } from 'node:events'
import net from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { startHostile } from '../kit/hostile.ts'

const post = (path: string, body: string, accept = 'text/event-stream') => `POST ${path} HTTP/1.1\r\nHost: x\r\nAccept: ${accept}\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`

t.test('a stream that is pipelined behind an answer that closes the connection does not end the process', async t => {
  // After the answer with `Connection: close`, which Fastify sends to malformed JSON, Node reads on, and assigns the ended socket to the last
  // of these responses instead of the response before. When that last response ended, an assertion in Node ended the process.
  const server = await startHostile(t)
  const bytes = [
    post('/dual/ann', '{"tabId":"a"}', 'application/json'), post('/schema/ann', '{"ta'), post('/true/bob', '{"tabId":"b"}'),
    'GET /true/eve?datastar=%7B%22tabId%22%3A%22c%22%7D HTTP/2.0\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n'
  ].join('')
  for (let i = 0; i < 60; i++) {
    const socket = net.connect(server.port, '127.0.0.1')
    socket.on('error', () => {})
    socket.resume().write(bytes)
    await turn()
    for (let turns = i % 12; turns > 0; turns--) await turn()
    socket.destroy()
    await once(socket, 'close')
  }
  const { size, escaped } = await server.until(({ size, connections }) => size === 0 && connections === 0)
  t.strictSame(escaped, [])
  t.equal(size, 0)
})
