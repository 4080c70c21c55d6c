// A handler that neither awaits nor returns startStream: the stream ends empty, and a warning says why.
import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { buildApp, LEVELS } from './kit/app.ts'
import { connect } from './kit/client.ts'
import { watchUnhandled } from './kit/unhandled.ts'

t.test('a stream that was neither awaited nor returned ends empty, and one warning says so', async t => {
  const app = await buildApp(t)
  app.fastify.get('/async', { sse: 'only' }, async (_request, reply) => { reply.startStream('ann').then(stream => stream.keepAlive()) })
  app.fastify.get('/sync', { sse: 'only' }, (_request, reply) => { reply.startStream('ann').then(stream => stream.keepAlive()) })
  // The handler returns before Fastify has handed the response over.
  const onSend = async () => { await turn() }
  app.fastify.get('/hook', { sse: 'only', onSend }, async (_request, reply) => { reply.startStream('ann') })
  await app.listen()
  const paths = ['/async', '/sync', '/hook']
  for (const path of paths) {
    const client = await connect(app.url(path))
    t.equal(await client.ended, 'clean')
    t.equal(client.text, '')
    t.match(app.log.filter(line => line.level === LEVELS.warn).splice(0).at(-1), {
      route: `GET ${path}`, msg: `the handler of GET ${path} neither awaited nor returned startStream, so its stream ended empty`
    })
  }
  t.equal(app.log.filter(line => line.level === LEVELS.warn).length, paths.length)
})

t.test('a startStream that fails before its handler awaits the promise fails the request, and does not end the process', async t => {
  const unhandled = watchUnhandled(t)
  const app = await buildApp(t, { errorsExpected: true })
  app.fastify.get('/no-sse', async (_request, reply) => {
    const started = reply.startStream('ann')
    await turn()
    await started
  })
  app.fastify.get('/detached', { sse: 'only' }, async (_request, reply) => {
    const { startStream } = reply
    await startStream('ann')
  })
  t.match(await app.fastify.inject('/no-sse'), { statusCode: 500, payload: /FST_ERR_OCTA_STAR_ROUTE/ })
  t.match(await app.fastify.inject('/detached'), { statusCode: 500 })
  await turn()
  t.strictSame(unhandled, [])
})

t.test('a handler that returns the promise of startStream keeps the stream open, and nothing is logged', async t => {
  const app = await buildApp(t)
  app.fastify.get('/then', { sse: 'only' }, (_request, reply) => reply.startStream('ann').then(stream => {
    stream.send('hello')
    stream.keepAlive()
  }))
  await app.listen()
  const client = await connect(app.url('/then'))
  t.equal((await client.event(1)).data, 'hello')
  t.strictSame(app.log.filter(line => line.level >= LEVELS.warn), [])
})
