// How a stream ends decides whether its client reconnects: a test for each row of that table, for two kinds of client.
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import tls from 'node:tls'
import { setImmediate as turn } from 'node:timers/promises'
import { EventSource } from 'eventsource'
import type { FastifyServerOptions } from 'fastify'
import t, { type Test } from 'tap'
import type { CloseReason, Stream } from '../lib/index.ts'
import { buildApp, streamRoute, withSignals, type App } from './kit/app.ts'
import { makeCertificate, withoutOpenssl } from './kit/certificate.ts'
import { connect } from './kit/client.ts'

const path = withSignals('/stream/ann', { tabId: 'a' })

interface Seen { app: App, streams: Stream[], requests: Array<string | undefined>, nextRequest: () => Promise<void> }

// An app that keeps the Last-Event-ID of each request to its stream route.
async function streamApp (t: Test, options = {}): Promise<Seen> {
  const app = await buildApp(t, options)
  const requests: Array<string | undefined> = []
  app.fastify.addHook('onRequest', async request => {
    if (!request.url.startsWith('/stream')) return
    requests.push(request.headers['last-event-id'] as string | undefined)
    app.fastify.server.emit('stream request')
  })
  const streams = streamRoute(app, '/stream/:scope', stream => { stream.send({ id: 'last', retry: 10, data: 'hello' }) })
  await app.listen()
  return { app, streams, requests, nextRequest: async () => { await once(app.fastify.server, 'stream request') } }
}

async function eventSource (t: Test, url: string): Promise<EventSource> {
  const source = new EventSource(url)
  t.teardown(() => source.close())
  await once(source, 'message')
  return source
}

const idOf = (reason: CloseReason) => new RegExp(`^octa-star-closed:${reason}:\\d+$`)

for (const reason of ['replaced', 'evicted'] as const) {
  const end = async ({ app }: Seen) => {
    if (reason === 'evicted') return app.fastify.streamRegistry.evict('ann')
    await connect(app.url(path))
  }

  t.test(`${reason}: an EventSource gets the farewell, reconnects once with the farewell's id, gets 204, and stops for good`, async t => {
    const seen = await streamApp(t)
    const source = await eventSource(t, seen.app.url(path))
    const farewell = once(source, 'octa-star-closed')
    const failed = once(source, 'error')
    await end(seen)
    const [event] = await farewell
    t.match(event, { data: reason, lastEventId: idOf(reason) })
    await failed // the end of the response
    const [error] = await once(source, 'error')
    t.equal(error.code, 204)
    t.equal(source.readyState, EventSource.CLOSED)
    t.match(seen.requests.at(-1), idOf(reason))
    t.equal(seen.app.fastify.streamRegistry.size, reason === 'replaced' ? 1 : 0, 'the request that was told to stop ended no other stream')
    t.ok(seen.streams.slice(1).every(stream => !stream.signal.aborted))
  })

  t.test(`${reason}: a fetch client sees the farewell and a clean end, and gets 204 if it reconnects anyway`, async t => {
    const seen = await streamApp(t)
    const response = await fetch(seen.app.url(path))
    await end(seen)
    const text = await response.text()
    const [, id] = /event: octa-star-closed\nid: (.*)\ndata: .*\n\n$/.exec(text)!
    t.match(id, idOf(reason))
    const again = await fetch(seen.app.url(path), { headers: { 'last-event-id': id! } })
    t.equal(again.status, 204)
    t.ok(seen.streams.slice(1).every(stream => !stream.signal.aborted))
  })
}

t.test('finished: an EventSource sees a clean end without a farewell, and reconnects', async t => {
  const seen = await streamApp(t)
  const source = await eventSource(t, seen.app.url(path))
  source.addEventListener('octa-star-closed', () => t.fail('no farewell'))
  seen.streams[0]!.close()
  await once(source, 'message')
  t.strictSame(seen.requests, [undefined, 'last'])
})

t.test('finished: a fetch client sees a clean end', async t => {
  const seen = await streamApp(t)
  const response = await fetch(seen.app.url(path))
  seen.streams[0]!.close()
  t.equal(await response.text(), 'id: last\nretry: 10\ndata: hello\n\n')
})

for (const reason of ['failed', 'stalled', 'expired'] as const) {
  const end = ({ streams }: Seen) => streams.at(-1)!.close(reason)

  t.test(`${reason}: an EventSource sees a broken connection, and reconnects with the id of its last event`, async t => {
    const seen = await streamApp(t)
    const source = await eventSource(t, seen.app.url(path))
    end(seen)
    await once(source, 'message')
    t.strictSame(seen.requests, [undefined, 'last'])
  })

  t.test(`${reason}: a fetch client sees a network error`, async t => {
    const seen = await streamApp(t)
    const response = await fetch(seen.app.url(path))
    end(seen)
    await t.rejects(response.text())
  })
}

t.test('shutdown: an EventSource sees a broken connection, and reconnects to the server that took over', async t => {
  const seen = await streamApp(t)
  const port = seen.app.port()
  const source = await eventSource(t, seen.app.url(path))
  await seen.app.fastify.close()
  const next = await buildApp(t)
  const streams = streamRoute(next, '/stream/:scope', stream => { stream.send('hello again') })
  await next.fastify.listen({ port, host: '127.0.0.1' })
  t.equal((await once(source, 'message'))[0].data, 'hello again')
  t.equal(streams.length, 1)
})

t.test('shutdown: a fetch client sees a network error', async t => {
  const seen = await streamApp(t)
  const response = await fetch(seen.app.url(path))
  await seen.app.fastify.close()
  await t.rejects(response.text())
})

t.test('disconnected: the server notices that either client has disconnected', async t => {
  const seen = await streamApp(t)
  const source = await eventSource(t, seen.app.url(path))
  source.close()
  t.equal(await seen.streams[0]!.closed, 'disconnected')
  const abort = new AbortController()
  await fetch(seen.app.url(path), { signal: abort.signal })
  abort.abort()
  t.equal(await seen.streams[1]!.closed, 'disconnected')
})

t.test('a stream whose handler throws has failed, and the error is logged once', async t => {
  const app = await buildApp(t, { errorsExpected: true })
  const reasons: CloseReason[] = []
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    const stream = await reply.startStream('ann')
    stream.onClose(reason => { reasons.push(reason) })
    await stream.send('hello')
    throw new Error('a fault')
  })
  await app.listen()
  const client = await connect(app.url('/stream'))
  t.equal(await client.ended, 'broken')
  t.strictSame(reasons, ['failed'])
  t.match(app.log.filter(line => line.level >= 50), [{ err: { message: 'a fault' } }])
})

t.test('a last word is sent before the farewell, and after the handler was stopped', async t => {
  const app = await buildApp(t)
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    const stream = await reply.startStream('ann')
    stream.keepAlive()
    stream.onReplaced(async () => {
      await new Promise(resolve => setTimeout(resolve, 20))
      await stream.send({ event: 'paused', data: stream.signal.aborted })
    })
  })
  await app.listen()
  const first = await connect(app.url(withSignals('/stream', { tabId: 'a' })))
  await connect(app.url(withSignals('/stream', { tabId: 'a' })))
  t.equal(await first.ended, 'clean')
  t.strictSame(first.events.map(({ event, data }) => [event, data]), [['paused', 'true'], ['octa-star-closed', 'replaced']])
})

t.test('a last word that hangs or fails delays the farewell by closeGrace at most', async t => {
  const app = await buildApp(t, { closeGrace: 100 })
  let lastWord: () => unknown = () => new Promise(() => {})
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    const stream = await reply.startStream('ann')
    stream.keepAlive()
    stream.onReplaced(() => lastWord())
  })
  await app.listen()
  const first = await connect(app.url(withSignals('/stream', { tabId: 'a' })))
  const second = await connect(app.url(withSignals('/stream', { tabId: 'a' })))
  t.equal(await first.ended, 'clean')
  t.equal(first.events.at(-1)!.data, 'replaced')
  lastWord = () => { throw new Error('no word') }
  await connect(app.url(withSignals('/stream', { tabId: 'a' })))
  t.equal(await second.ended, 'clean')
  t.match(app.log.filter(line => line.level === 40), [{ msg: 'an onReplaced callback failed', err: { message: 'no word' } }])
})

t.test('if one of several last words fails, the others are still sent', async t => {
  const app = await buildApp(t)
  app.fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    const stream = await reply.startStream('ann')
    stream.keepAlive()
    stream.onReplaced(() => { throw new Error('no word') })
    stream.onReplaced(async () => {
      for (let i = 0; i < 10; i++) await turn()
      await stream.send('a slow last word')
    })
    stream.onReplaced(async () => { throw new Error('no word either') })
    stream.onReplaced(() => stream.send('a quick last word'))
  })
  await app.listen()
  const url = app.url(withSignals('/stream', { tabId: 'a' }))
  const first = await connect(url)
  await connect(url)
  t.equal(await first.ended, 'clean')
  t.strictSame(first.events.map(({ data }) => data), ['a quick last word', 'a slow last word', 'replaced'])
  t.match(app.log.filter(line => line.level === 40), [{ err: { message: 'no word' } }, { err: { message: 'no word either' } }])
})

t.test('whatever reason the application gives, the stream ends', async t => {
  // `other.onClose(reason => stream.close(reason))` did nothing for `disconnected`, and the client stayed connected.
  for (const reason of ['disconnected', 'a reason of its own'] as CloseReason[]) {
    const app = await buildApp(t)
    const streams = streamRoute(app)
    await app.listen()
    const client = await connect(app.url(path))
    streams[0]!.close(reason)
    t.equal(await client.ended, 'broken')
    t.equal(await streams[0]!.gone, reason)
  }
})

for (const reason of ['failed', 'stalled', 'shutdown'] as const) {
  t.test(`${reason}: over HTTP/1.0, which nginx speaks by default, the connection is reset`, async t => {
    // Over HTTP/1.0 the end of the connection is the clean end of the response: behind nginx no client reconnected after a restart.
    const app = await buildApp(t)
    const streams = streamRoute(app)
    await app.listen()
    const socket = net.connect(app.port(), '127.0.0.1')
    const ended = new Promise<string>(resolve => socket.on('end', () => resolve('clean')).on('error', error => resolve((error as NodeJS.ErrnoException).code!)))
    socket.write(`GET ${path} HTTP/1.0\r\n\r\n`)
    await once(socket, 'data')
    if (reason === 'shutdown') await app.fastify.close()
    else streams[0]!.close(reason)
    t.equal(await ended, 'ECONNRESET')
  })
}

for (const reason of ['failed', 'shutdown'] as const) {
  for (const transport of ['TCP', 'TLS', 'a Unix socket'] as const) {
    t.test(`${reason}: over HTTP/1.1 and ${transport} everything that was sent arrives, then half a chunk, and the connection ends without a reset`, transport === 'TLS' ? { skip: withoutOpenssl } : {}, async t => {
      // To WebKit, whole chunks before the end of the connection are a clean end. A reset can discard what the client has not read yet.
      const app = await buildApp(t, transport === 'TLS' ? { fastify: { https: makeCertificate() } as FastifyServerOptions } : {})
      const streams = streamRoute(app)
      const directory = await mkdtemp(join(tmpdir(), 'octa-star-'))
      t.teardown(() => rm(directory, { recursive: true }))
      const address = join(directory, 'socket')
      await app.fastify.listen(transport === 'a Unix socket' ? { path: address } : { port: 0, host: '127.0.0.1' })
      const socket = transport === 'TLS'
        ? tls.connect({ port: app.port(), host: '127.0.0.1', rejectUnauthorized: false })
        : transport === 'TCP' ? net.connect(app.port(), '127.0.0.1') : net.connect(address)
      let text = ''
      socket.setEncoding('latin1').on('data', data => { text += data })
      const ended = new Promise<string>(resolve => socket.on('end', () => resolve('the end')).on('error', error => resolve((error as NodeJS.ErrnoException).code!)))
      socket.write(`GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`)
      await once(socket, 'data')
      for (const word of ['first', 'second', 'x'.repeat(20_000)]) streams[0]!.send(word)
      if (reason === 'shutdown') await app.fastify.close()
      else streams[0]!.close(reason)
      t.equal(await ended, 'the end')
      const chunks = `1\r\n\n\r\nd\r\ndata: first\n\n\r\ne\r\ndata: second\n\n\r\n4e28\r\ndata: ${'x'.repeat(20_000)}\n\n\r\n`
      t.equal(text.slice(text.indexOf('\r\n\r\n') + 4), `${chunks}1\r\n`)
    })
  }
}

t.test('failed in the turn of its opening: a client sees the head, the events, and half a chunk', async t => {
  const app = await buildApp(t)
  streamRoute(app, '/stream/:scope', stream => {
    stream.send('hello')
    stream.close('failed')
  })
  streamRoute(app, '/silent/:scope', stream => stream.close('failed'))
  await app.listen()
  for (const [route, body] of [['stream', 'd\r\ndata: hello\n\n\r\n1\r\n'], ['silent', '1\r\n']] as const) {
    const socket = net.connect(app.port(), '127.0.0.1')
    let text = ''
    socket.setEncoding('latin1').on('data', data => { text += data })
    socket.write(`GET /${route}/ann HTTP/1.1\r\nHost: localhost\r\n\r\n`)
    await once(socket, 'end')
    t.match(text, /^HTTP\/1.1 200 OK\r\n/)
    t.equal(text.slice(text.indexOf('\r\n\r\n') + 4), body)
  }
})

t.test('over HTTP/1.0 and a Unix socket, which cannot be reset, the connection is closed, and nothing is thrown', async t => {
  const app = await buildApp(t)
  const streams = streamRoute(app)
  const directory = await mkdtemp(join(tmpdir(), 'octa-star-'))
  t.teardown(() => rm(directory, { recursive: true }))
  const address = join(directory, 'socket')
  await app.fastify.listen({ path: address })
  const socket = net.connect(address)
  socket.write(`GET ${path} HTTP/1.0\r\n\r\n`)
  await once(socket, 'data')
  streams[0]!.close('failed')
  await once(socket, 'close')
  t.equal(await streams[0]!.closed, 'failed')
})
