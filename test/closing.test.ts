// After the call of close(), a request for a stream is broken off before the first byte, and the client reconnects to the next server.
import dns from 'node:dns'
import { EventEmitter, once } from 'node:events'
import { constants, connect as connectHttp2, type ServerHttp2Session, type ServerHttp2Stream } from 'node:http2'
import net, { type AddressInfo } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { EventSource } from 'eventsource'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import t, { type Test } from 'tap'
import octaStarStreams from '../lib/index.ts'
import { startChild, type Child } from './kit/child.ts'
import { freePort } from './kit/free-port.ts'

interface ClosingServer {
  fastify: FastifyInstance
  port: number
  /** Calls close(), and resolves when another plugin's slow preClose hook, which runs first, has begun. */
  close: () => Promise<void>
  /** Lets the slow preClose hook end, and resolves when the server has closed. */
  finish: () => Promise<void>
}

// A server with another plugin's preClose hook, which takes until the test calls `finish`.
async function closingServer (t: Test, { host = '127.0.0.1', ...server }: FastifyServerOptions & { host?: string, http2?: true } = {}): Promise<ClosingServer> {
  const fastify = Fastify({ forceCloseConnections: true, ...server } as FastifyServerOptions) as unknown as FastifyInstance
  let began = () => {}
  let letGo = () => {}
  const begins = new Promise<void>(resolve => { began = resolve })
  const held = new Promise<void>(resolve => { letGo = resolve })
  fastify.addHook('preClose', async () => {
    began()
    await held
  })
  await fastify.register(octaStarStreams)
  fastify.get('/stream', { sse: 'only' }, async (_request, reply) => { (await reply.startStream('ann')).keepAlive() })
  fastify.get('/either', { sse: true }, async (_request, reply) => {
    if (reply.sse === undefined) return 'no stream'
    const stream = await reply.startStream('ann')
    stream.keepAlive()
  })
  fastify.get('/other', async () => 'hello')
  await fastify.listen({ port: 0, host })
  let closed: Promise<void> | undefined
  t.teardown(async () => {
    letGo()
    await fastify.close()
  })
  return {
    fastify,
    port: (fastify.server.address() as AddressInfo).port,
    async close () {
      closed = fastify.close()
      await begins
    },
    async finish () {
      letGo()
      await closed
    }
  }
}

/** Sends a GET on `socket`. Resolves to everything that the server sends until the response is complete, or until the connection breaks. */
async function ask (socket: net.Socket, path: string, accept = 'text/event-stream'): Promise<string> {
  let text = ''
  socket.setEncoding('utf8')
  const over = new Promise<void>(resolve => {
    socket.on('data', data => {
      text += data
      // The head and the body of an answer that is not a stream.
      if (/\r\n\r\n.+/s.test(text)) resolve()
    })
    socket.on('error', () => {}).on('close', () => resolve())
  })
  socket.write(`GET ${path} HTTP/1.1\r\nhost: test\r\naccept: ${accept}\r\n\r\n`)
  await over
  socket.removeAllListeners('data')
  return text
}

async function open (t: Test, port: number, host = '127.0.0.1'): Promise<net.Socket> {
  const socket = net.connect(port, host)
  t.teardown(() => socket.destroy())
  await once(socket, 'connect')
  return socket
}

// Fastify listens on every address of `localhost`. Not every machine lists both addresses.
function nameBothAddresses (t: Test): void {
  const { lookup } = dns
  t.teardown(() => { dns.lookup = lookup })
  const both = [{ address: '127.0.0.1', family: 4 }, { address: '::1', family: 6 }]
  dns.lookup = ((host: string, options: dns.LookupAllOptions, callback: (error: Error | null, addresses: unknown) => void) => {
    if (host === 'localhost' && options.all === true) callback(null, both)
    else (lookup as Function)(host, options, callback)
  }) as typeof dns.lookup
}

for (const host of ['127.0.0.1', 'localhost']) {
  t.test(`while a server on ${host} closes, requests for streams are broken off before the first byte, and other requests get 503`, async t => {
    if (host === 'localhost') nameBothAddresses(t)
    const server = await closingServer(t, { host })
    const addresses = server.fastify.addresses().map(address => (address as AddressInfo).address)
    t.strictSame(addresses.sort(), host === 'localhost' ? ['127.0.0.1', '::1'] : ['127.0.0.1'])
    const sockets = []
    for (const address of addresses) {
      const keptAlive = await open(t, server.port, address)
      t.match(await ask(keptAlive, '/other'), /^HTTP\/1.1 200 /)
      sockets.push({ address, keptAlive, idle: await open(t, server.port, address) })
    }
    await server.close()
    for (const { address, keptAlive, idle } of sockets) {
      t.equal(await ask(keptAlive, '/stream'), '', `${address}: a connection that has carried a request`)
      t.equal(await ask(idle, '/stream'), '', `${address}: a connection without a request so far`)
      t.equal(await ask(await open(t, server.port, address), '/stream'), '', `${address}: a new connection`)
      t.equal(await ask(await open(t, server.port, address), '/either'), '', `${address}: a route that may also answer without a stream`)
      t.match(await ask(await open(t, server.port, address), '/either', 'text/html'), /^HTTP\/1.1 503 /, `${address}: that route without a stream`)
      t.match(await ask(await open(t, server.port, address), '/other'), /^HTTP\/1.1 503 /, `${address}: another route`)
    }
    await server.finish()
  })
}

t.test('a request that comes in the turn in which close() is called is broken off too, and never answered 503', async t => {
  const server = await closingServer(t)
  const socket = await open(t, server.port)
  const asked = ask(socket, '/stream')
  await server.close()
  await server.finish()
  t.match(await asked, /^(HTTP\/1.1 200 .*)?$/s)
  if (!socket.closed) await once(socket, 'close')
})

// If a stream is reset while Node reads the stream's request, Node uses memory that was freed (https://github.com/nodejs/node/blob/v20.x/src/node_http2.cc).
// Node itself resets each stream that arrives after the session was closed.
t.test('over HTTP/2 no stream is reset in the turn of its request, and no session is closed before Node has sent a GOAWAY', async t => {
  const server = await closingServer(t, { http2: true })
  let turns = 0
  let counting = setImmediate(function count () {
    turns++
    counting = setImmediate(count)
  })
  t.teardown(() => clearImmediate(counting))
  const calls: Array<[name: string, turn: number]> = []
  server.fastify.server.on('session', (session: ServerHttp2Session) => {
    for (const name of ['goaway', 'close'] as const) {
      const original: () => void = session[name]
      session[name] = () => {
        calls.push([name, turns])
        original.call(session)
      }
    }
  })
  const session = connectHttp2(`http://127.0.0.1:${server.port}`)
  session.on('error', () => {})
  t.teardown(() => session.destroy())
  const request = () => session.request({ ':path': '/stream', accept: 'text/event-stream' }).on('error', () => {})
  await once(request(), 'response')
  const reset = new Promise<number>(resolve => {
    server.fastify.server.prependListener('stream', (stream: ServerHttp2Stream) => {
      const [began, { close }] = [turns, stream]
      stream.close = code => {
        resolve(turns - began)
        close.call(stream, code)
      }
    })
  })
  await server.close()
  request().on('response', () => t.fail('a head was sent'))
  t.ok(await reset > 0)
  await server.finish()
  const [[first, goaway], [second, close]] = calls as [[string, number], [string, number]]
  t.strictSame([first, second], ['goaway', 'close'])
  t.ok(close > goaway)
})

t.test('while a server closes, a request for a stream over HTTP/2 is refused, and other requests of the session get 503', async t => {
  const server = await closingServer(t, { http2: true })
  const session = connectHttp2(`http://127.0.0.1:${server.port}`)
  session.on('error', () => {})
  t.teardown(() => session.destroy())
  await once(session, 'connect')
  await server.close()
  const stream = session.request({ ':path': '/stream', accept: 'text/event-stream' })
  stream.on('response', () => t.fail('a head was sent'))
  const error = await new Promise(resolve => stream.on('error', resolve).on('close', resolve))
  t.match(error, { code: 'ERR_HTTP2_STREAM_ERROR' })
  t.equal(stream.rstCode, constants.NGHTTP2_REFUSED_STREAM)
  const other = session.request({ ':path': '/other' })
  other.on('error', () => {})
  const [headers] = await once(other, 'response')
  t.equal(headers[':status'], 503)
  other.resume()
  await server.finish()
})

interface Page { close: () => void, comesTo: (process: string) => Promise<void> }
type Connect = (url: string) => Page

// Keeps the messages. Each message names the process that sent it.
function pageOf (start: (heard: (message: string) => void) => () => void): Page {
  const heard = new EventEmitter()
  const messages: string[] = []
  const close = start(message => {
    messages.push(message)
    heard.emit('message')
  })
  return { close, async comesTo (process) { while (messages.at(-1) !== process) await once(heard, 'message') } }
}

const clients: Record<string, Connect> = {
  EventSource: url => pageOf(heard => {
    const source = new EventSource(url)
    source.onmessage = ({ data }) => heard(data)
    return () => source.close()
  }),
  // Datastar with `retry: 'auto'` reconnects only after a network error, and neither after a clean end nor after a 503.
  'Datastar client': url => pageOf(heard => {
    const abort = new AbortController()
    const run = async () => {
      for (;;) {
        try {
          const response = await fetch(url, { headers: { accept: 'text/event-stream' }, signal: abort.signal })
          if (response.status !== 200) return
          let text = ''
          for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
            text += chunk
            const [, data] = /data: (.+)\n\n$/.exec(text) ?? []
            if (data !== undefined) heard(data)
          }
          return
        } catch {
          if (abort.signal.aborted) return
        }
        await pause(20)
      }
    }
    run()
    return () => abort.abort()
  })
}

async function startServer (t: Test, env: Record<string, string>): Promise<Child> {
  const child = startChild(t, 'test/kit/graceful-process.js', env)
  const [line] = await Promise.race([once(child.lines, 'line'), child.exited.then(() => { throw new Error(child.errors()) })])
  t.match(JSON.parse(line), { event: 'listening' })
  return child
}

for (const [name, connect] of Object.entries(clients)) {
  for (const behaviour of ['cleans up for two seconds', 'ignores its signal']) {
    t.test(`if a stream ${behaviour}, its ${name} reconnects to the next server`, async t => {
      const PORT = String(await freePort())
      const first = await startServer(t, { PORT, NAME: 'first', REPLACE_TIMEOUT: '4000' })
      const page = connect(`http://127.0.0.1:${PORT}/stream/${encodeURIComponent(behaviour)}?tab=a`)
      t.teardown(page.close)
      await page.comesTo('first')
      first.signal('SIGTERM')
      // The client tries to reconnect all this time.
      t.strictSame(await first.exited, [0, null])
      await startServer(t, { PORT, NAME: 'second' })
      await page.comesTo('second')
      t.equal(first.errors(), '')
    })
  }
}
