// Streams that end before opening, wrong use of startStream, and the traces of a claim in the scope.
import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { DelayQueue } from '../lib/delay-queue.ts'
import { Claim, type Deadline } from '../lib/registry/claim.ts'
import { Seats } from '../lib/registry/seats.ts'
import { streamKey } from '../lib/registry/stream-key.ts'
import { buildApp, holdUp, streamRoute, withSignals } from './kit/app.ts'
import { connect } from './kit/client.ts'
import { openStream, pendingStream } from './kit/fake-stream.ts'
import { memoryLog } from './kit/memory-log.ts'
import { PlainHolder } from './kit/plain-holder.ts'

const path = withSignals('/stream/ann', { tabId: 'a' })

t.test('if the options of startStream are not an object, the error names the options', async t => {
  const app = await buildApp(t, { errorsExpected: true })
  const wrong = { '/null': null, '/string': 'chat' }
  for (const [url, options] of Object.entries(wrong)) {
    app.fastify.get(url, { sse: 'only' }, async (_request, reply) => { await reply.startStream('ann', options as never) })
  }
  for (const url of Object.keys(wrong)) {
    const response = await app.fastify.inject({ url, headers: { accept: 'text/event-stream' } })
    t.match(response.json(), { statusCode: 500, code: 'FST_ERR_OCTA_STAR_NAME' })
  }
})

t.test('callbacks that are not functions are refused at the call', async t => {
  const { stream } = await openStream()
  t.throws(() => stream.onClose('x' as never), { code: 'FST_ERR_OCTA_STAR_CALLBACK', message: 'onClose() takes a function, got "x"' })
  t.throws(() => stream.onReplaced(undefined as never), { code: 'FST_ERR_OCTA_STAR_CALLBACK', message: 'onReplaced() takes a function, got undefined' })
})

t.test('a stream whose handler returns while the stream waits ends empty with a 200', async t => {
  const app = await buildApp(t)
  const streams = streamRoute(app)
  app.fastify.get('/hasty/:scope', { sse: 'only' }, async (_request, reply) => { reply.startStream('ann') })
  await app.listen()
  await connect(app.url(path))
  const letGo = holdUp(streams[0]!)
  const hasty = await connect(app.url(withSignals('/hasty/ann', { tabId: 'a' })))
  t.equal(await hasty.ended, 'clean')
  t.match([hasty.status, hasty.headers['content-type'], hasty.text], [200, 'text/event-stream', ''])
  letGo()
})

t.test('a client that has already disconnected is not answered', async t => {
  const { stream, response } = pendingStream()
  const started = stream.start()!
  stream.takeOver()
  response.sever()
  stream.close('replaced')
  await t.rejects(started, /has ended: replaced/)
  t.equal(response.status, undefined)
})

t.test('an unexpected error of the registry is answered 500, and rejects the start', async t => {
  const { stream, response } = pendingStream()
  const started = stream.start()!
  stream.takeOver()
  stream.refuse(new Error('unexpected'), {})
  await t.rejects(started, { message: 'unexpected' })
  t.equal(response.status, 500)
})

t.test('while the server closes, the accepted types decide on a route that serves more than streams', async t => {
  const app = await buildApp(t)
  const streams = streamRoute(app)
  app.fastify.get('/object', { sse: { kind: 'only' } as never }, async (_request, reply) => { await reply.startStream('ann') })
  app.fastify.get('/manual', { sse: 'manual' }, async () => ({}))
  await app.listen()
  const first = await connect(app.url(path))
  const letGo = holdUp(streams[0]!)
  const closed = app.fastify.close()
  t.equal(await first.ended, 'broken')
  await t.rejects(connect(app.url('/object'), { headers: { accept: '*/*' } }), { code: 'ECONNRESET' })
  await t.rejects(connect(app.url('/manual'), { headers: { accept: 'text/event-stream' } }), { code: 'ECONNRESET' })
  const response = await new Promise<number>(resolve => {
    import('node:http').then(({ get }) => get(app.url('/manual'), { agent: false }, ({ statusCode }) => resolve(statusCode!)))
  })
  t.equal(response, 503)
  letGo()
  await closed
})

t.test('a claim that has left the waiting line of its scope leaves nothing in the line, whenever the claim is released', async t => {
  const owner = { log: memoryLog().log, deadlines: new DelayQueue<Deadline>(5_000, () => {}), claimEnding () {}, holderGone () {}, giveUp () {} }
  const [first, second] = ['a', 'b'].map(tab => new Claim(streamKey('ann', tab), new PlainHolder(), 1, owner)) as [Claim, Claim]
  const seats = new Seats(1)
  t.equal(seats.enter(first, undefined), true)
  t.equal(seats.seated(first), undefined)
  t.equal(seats.enter(second, undefined), false, 'waits in line')
  const seated = seats.seated(second)
  seats.claimEnding(second)
  await seated
  seats.leave(first)
  seats.leave(second)
  t.notOk(seats.isFull('"ann"'))
})

t.test('a claim whose holder is gone is not given up while the claim waits for its predecessors', async t => {
  const given: Claim[] = []
  const { log, lines } = memoryLog()
  const owner = { log, deadlines: new DelayQueue<Deadline>(5_000, () => {}), claimEnding () {}, holderGone () {}, giveUp: (claim: Claim) => given.push(claim) }
  const holder = new PlainHolder()
  const claim = new Claim(streamKey('ann', 'a'), holder, 1, owner)
  holder.leave()
  await turn()
  claim.giveUp()
  t.strictSame([given, lines], [[], []])
})
