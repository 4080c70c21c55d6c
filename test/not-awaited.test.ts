// A handler that neither awaits nor returns startStream: the stream ends empty, and a warning says why.
import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { buildApp, LEVELS } from './kit/app.ts'
import { connect } from './kit/client.ts'

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
