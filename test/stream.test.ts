// The life of a stream without a socket: what the stream reports before, during and after.
import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { openStream, openStream as openLogged, pendingStream } from './kit/fake-stream.ts'
import { memoryLog } from './kit/memory-log.ts'
import { watchUnhandled } from './kit/unhandled.ts'

t.test('a send to a stream that has ended rejects, and the rejection is handled if nobody awaits the send', async t => {
  const unhandled = watchUnhandled(t)
  const { stream } = await openStream()
  stream.close('replaced')
  await t.rejects(stream.send('late'), { code: 'FST_ERR_OCTA_STAR_STREAM_CLOSED', name: 'AbortError', reason: 'replaced', message: /The stream has ended: replaced/ })
  stream.send('nobody awaits this')
  await turn()
  t.strictSame(unhandled, [])
})

t.test('a send waits for a slow peer, and rejects if the stream ends meanwhile, and the rejection is handled if nobody awaits the send', async t => {
  const unhandled = watchUnhandled(t)
  const { stream, response } = await openStream()
  response.frozen = true
  let sent = 0
  const first = stream.send('a').then(() => sent++)
  const second = stream.send('b').then(() => sent++)
  await turn()
  t.equal(sent, 0)
  t.equal(response.listenerCount('drain'), 1, 'one listener, however many sends wait')
  response.thaw()
  await Promise.all([first, second])
  t.equal(sent, 2)

  response.frozen = true
  const third = stream.send('c')
  stream.send('nobody awaits this')
  stream.close('evicted')
  await t.rejects(third, /has ended: evicted/)
  await turn()
  t.strictSame(unhandled, [])
})

t.test('a send of an invalid message rejects as an error of the application', async t => {
  const { stream } = await openStream()
  await t.rejects(stream.send({ event: 'a\nb' }), { code: 'FST_ERR_OCTA_STAR_EVENT' })
})

t.test('a last word to a peer that does not read is given up after closeGrace', async t => {
  const { stream, response } = await openStream()
  response.frozen = true
  const words: unknown[] = []
  stream.onReplaced(() => stream.send('a last word').catch(error => words.push(error.reason)))
  stream.close('replaced')
  t.equal(response.written, 'data: a last word\n\n')
  await stream.closed
  await turn()
  t.ok(response.destroyed)
  t.notOk(response.ended)
  t.strictSame(words, ['replaced'])
})

t.test('a last word that the peer has not taken in time is not an error, and causes no warning', async t => {
  // If a client did not read, each last word was logged as an error.
  const { lines, log } = memoryLog()
  const { stream, response } = pendingStream({ log })
  stream.start()!.catch(() => {})
  stream.takeOver()
  stream.open()
  await turn()
  response.frozen = true
  stream.onReplaced(() => stream.send('a last word'))
  stream.close('replaced')
  await stream.closed
  await turn()
  t.strictSame(lines.filter(({ level }) => level === 'warn'), [])
})

t.test('the signal is aborted with the reason, also if the signal is read after the end', async t => {
  const { stream } = await openStream()
  stream.close('stalled')
  t.ok(stream.signal.aborted)
  t.match(stream.signal.reason, { reason: 'stalled' })
})

t.test('`closed` resolves to the first reason, whether it is read before or after the end', async t => {
  const { stream, response } = await openStream()
  const early = stream.closed
  response.leave()
  t.equal(await early, 'disconnected')
  stream.close('evicted')
  t.equal(await stream.closed, 'disconnected')
})

t.test('the start of a stream that ends before opening rejects at once, without waiting for the response', async t => {
  const { stream, response } = pendingStream()
  const started = stream.start()!
  stream.close('disconnected')
  await t.rejects(started, /has ended: disconnected/)
  t.equal(stream.handlerThrew(stream.signal.reason), true)
  t.equal(await stream.gone, 'disconnected')
  t.equal(response.written, '')
})

t.test('an error of the handler is a normal end if the stream has ended and the error says no more, and is logged once otherwise', async t => {
  const { lines, log } = memoryLog()
  const logged = () => lines.splice(0).filter(({ level }) => level === 'error').map(({ details }) => details)
  const openStream = () => openLogged({ log })
  const aborted = await openStream()
  aborted.stream.close('evicted')
  t.ok(aborted.stream.handlerThrew(new DOMException('', 'AbortError')))

  const caused = await openStream()
  caused.stream.close('evicted')
  t.ok(caused.stream.handlerThrew(new Error('a query was cancelled', { cause: caused.stream.signal.reason })))

  t.strictSame(logged(), [])

  const unrelated = await openStream()
  const fault = new Error('a fault in a finally block')
  unrelated.stream.close('evicted')
  unrelated.stream.handlerThrew(fault)
  t.match(logged(), [{ err: fault, streamId: unrelated.stream.id, route: 'GET /', reason: 'evicted' }])

  const early = await openStream()
  early.stream.handlerThrew(new DOMException('a timeout of its own', 'AbortError'))
  t.equal(await early.stream.closed, 'failed')
  t.match(logged(), [{ reason: 'failed' }], 'no stream had ended')

  const odd = await openStream()
  odd.stream.close()
  odd.stream.handlerThrew('not an error')
  t.match(logged(), [{ err: 'not an error', reason: 'finished' }])
})

t.test('a heartbeat is a comment, and is not written to a connection that is cut', async t => {
  for (const isCut of [false, true]) {
    const { stream, response } = await openStream()
    const before = response.written.length
    if (isCut) response.sever()
    response.response.beat()
    t.equal(response.written.slice(before), isCut ? '' : ': heartbeat\n\n')
    response.leave()
    await stream.closed
  }
})

t.test('a stream knows when it was opened, and is not open before', async t => {
  t.equal(pendingStream().stream.openedAt, 0)
  const before = Date.now()
  const { stream } = await openStream()
  // Uses the process's monotonic clock, because the system's clock may have been set since the process started.
  t.ok(stream.openedAt > before - 60_000 && stream.openedAt < Date.now() + 60_000)
})
