// HTTP/2: one stream of a session ends without its neighbours, in each way that a stream ends.
import { once } from 'node:events'
import http2, { type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import octaStarStreams, { type CloseReason, type Stream } from '../lib/index.ts'
import { withSignals } from './kit/app.ts'

// @fastify/sse sets a Connection header, which HTTP/2 does not have; Node drops it and says so, once.
process.removeAllListeners('warning')

async function open (session: ClientHttp2Session, tabId: string): Promise<ClientHttp2Stream & { text: string }> {
  const stream = Object.assign(session.request({ ':path': withSignals('/stream', { tabId }), accept: 'text/event-stream' }), { text: '' })
  stream.setEncoding('utf8').on('data', data => { stream.text += data }).on('error', () => {})
  await once(stream, 'response')
  return stream
}

// A session with a server whose streams of one scope are kept, the oldest first.
async function connect (t: Test, onOpen: (stream: Stream) => void = () => {}): Promise<{ session: ClientHttp2Session, streams: Stream[] }> {
  const fastify = Fastify({ http2: true, logger: false }) as unknown as FastifyInstance
  await fastify.register(octaStarStreams, { closeGrace: 100 })
  const streams: Stream[] = []
  fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
    const stream = await reply.startStream('ann')
    streams.push(stream)
    stream.keepAlive()
    onOpen(stream)
  })
  await fastify.listen({ port: 0, host: '127.0.0.1' })
  const session = http2.connect(fastify.listeningOrigin)
  t.teardown(async () => {
    session.destroy()
    await fastify.close()
  })
  return { session, streams }
}

t.test('streams of one session end one by one: cleanly or reset, as the reason asks', async t => {
  const { session, streams } = await connect(t)

  const neighbour = await open(session, 'neighbour')
  for (const reason of ['replaced', 'evicted', 'finished', 'failed', 'stalled'] as CloseReason[]) {
    const tab = await open(session, reason)
    const own = streams.at(-1)!
    const closed = once(tab, 'close')
    if (reason === 'replaced') await open(session, reason)
    else own.close(reason)
    await closed
    const broken = reason === 'failed' || reason === 'stalled'
    t.equal(tab.rstCode, broken ? http2.constants.NGHTTP2_CANCEL : http2.constants.NGHTTP2_NO_ERROR, reason)
    t.equal(tab.text.includes('octa-star-closed'), reason === 'replaced' || reason === 'evicted')
    t.equal(await own.gone, reason)
  }

  const leaver = await open(session, 'leaver')
  leaver.close(http2.constants.NGHTTP2_CANCEL)
  t.equal(await streams.at(-1)!.closed, 'disconnected')

  await streams[0]!.send('unharmed')
  await once(neighbour, 'data')
  t.equal(neighbour.text, 'data: unharmed\n\n')
  t.notOk(streams[0]!.signal.aborted)
})

t.test('a stream whose peer does not read is reset after closeGrace, and its neighbour goes on', async t => {
  const { session, streams } = await connect(t, stream => stream.onReplaced(() => stream.send('a last word')))
  const deaf = await open(session, 'a')
  deaf.pause()
  const blocked = streams[0]!.send('x'.repeat(1024 * 1024))
  blocked.catch(() => {})
  const closed = once(deaf, 'close')
  const successor = await open(session, 'a')
  t.equal(await streams[0]!.gone, 'replaced')
  streams[1]!.send('goes on')
  await once(successor, 'data')
  t.equal(successor.text, 'data: goes on\n\n')
  await closed
  t.equal(deaf.rstCode, http2.constants.NGHTTP2_CANCEL)
})
