// Rule 2: the stream of the last startStream call for a key is left, however many calls race.
import http from 'node:http'
import t from 'tap'
import type { Stream } from '../../lib/index.ts'
import { buildApp, holdUp, streamRoute, withSignals } from '../kit/app.ts'
import { connect } from '../kit/client.ts'
import { isQuickRun } from '../kit/programs.ts'

const ROUNDS = isQuickRun ? 20 : 200
const RACERS = 64

t.test(`of ${RACERS} starts of one key at once the last stream is left, ${ROUNDS} times over`, async t => {
  const app = await buildApp(t, { logLevel: 'warn' })
  let called: string[] = []
  let survivor: Stream | undefined
  app.fastify.get<{ Params: { racer: string } }>('/race/:racer', { sse: 'only' }, async (request, reply) => {
    called.push(request.params.racer)
    const stream = await reply.startStream('ann')
    survivor = stream
    stream.keepAlive()
    await stream.send(request.params.racer)
  })
  await app.listen()
  const agent = new http.Agent({ keepAlive: true })
  t.teardown(() => agent.destroy())

  for (let round = 0; round < ROUNDS; round++) {
    called = []
    const racers = Array.from({ length: RACERS }, (_, racer) => connect(app.url(withSignals(`/race/${racer}`, { tabId: 'a' })), { agent }))
    const clients = await Promise.all(racers)
    const last = Number(called.at(-1))

    const answered = clients.filter(client => client.status === 200)
    const left = clients[last]!
    if (called.length !== RACERS || app.fastify.streamRegistry.size !== 1 || left.status !== 200 || (await left.event(1)).data !== String(last)) {
      t.fail(`round ${round}: the last was ${last}, ${app.fastify.streamRegistry.size} are left`)
    }
    for (const client of answered) if (client !== left && await client.ended !== 'clean') t.fail(`round ${round}: a loser was not ended cleanly`)
    if (clients.some(client => client.status !== 200 && client.status !== 204)) t.fail(`round ${round}: a racer was not answered`)
    survivor!.close()
    await left.ended
    await survivor!.gone
  }
  t.pass(`${ROUNDS} rounds`)
})

t.test('a request that is superseded while it waits is answered 204 at once, without waiting for its predecessor', async t => {
  const app = await buildApp(t)
  const streams = streamRoute(app)
  await app.listen()
  const url = app.url(withSignals('/stream/ann', { tabId: 'a' }))
  await connect(url)
  const cleanedUp = holdUp(streams[0]!)
  const second = connect(url)
  const third = connect(url)
  t.equal((await second).status, 204)
  t.equal(streams.length, 1)
  cleanedUp()
  t.equal((await third).status, 200)
})
