// The end of a process, caused by a signal or by an uncaught error, with close-with-grace as in the README.
import { once } from 'node:events'
import t, { type Test } from 'tap'
import { startChild, type Child } from './kit/child.ts'
import { connect, type Client } from './kit/client.ts'

interface Said { event: string, [property: string]: unknown }

interface Server extends Child {
  /** All events that the server has reported so far. */
  said: Said[]
  /** Resolves when the server has reported `event`. */
  heard: (event: string) => Promise<void>
  open: (behaviour: string, tab: string) => Promise<Client>
  url: (path: string) => string
}

async function startServer (t: Test, env: Record<string, string> = {}): Promise<Server> {
  const child = startChild(t, 'test/kit/graceful-process.js', env)
  const said: Said[] = []
  child.lines.on('line', line => said.push(JSON.parse(line)))
  const heard = async (event: string) => {
    while (!said.some(line => line.event === event)) await Promise.race([once(child.lines, 'line'), child.exited.then(() => { throw new Error(`it exited: ${child.errors()}`) })])
  }
  await heard('listening')
  const url = (path: string) => `http://127.0.0.1:${said[0]!.port}${path}`
  return { ...child, said, heard, url, open: (behaviour, tab) => connect(url(`/stream/${encodeURIComponent(behaviour)}?tab=${tab}`)) }
}

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  t.test(`${signal}: every client sees its connection break, cleanups run to their end, and the process exits with 0`, async t => {
    const server = await startServer(t)
    const clients = [await server.open('subscribes', 'a'), await server.open('cleans up', 'b'), await server.open('subscribes', 'c')]
    server.signal(signal)
    for (const client of clients) {
      t.equal(await client.ended, 'broken')
      t.strictSame(client.events, [])
    }
    t.strictSame(await server.exited, [0, null])
    t.strictSame(server.said.filter(line => line.event === 'gone').map(line => line.reason), ['shutdown', 'shutdown', 'shutdown'])
    t.strictSame(server.said.filter(line => line.event !== 'gone').map(line => line.event), ['listening', 'closing', 'cleaned up', 'closed'])
    t.equal(server.errors(), '')
  })
}

t.test('a handler that ignores its end delays the exit by replaceTimeout, which is less than close-with-grace allows', async t => {
  const server = await startServer(t)
  const client = await server.open('hangs', 'a')
  server.signal('SIGTERM')
  t.equal(await client.ended, 'broken')
  t.strictSame(await server.exited, [0, null])
  t.equal(server.said.at(-1)!.event, 'closed')
})

t.test('an uncaught error closes the server as a signal does, and the process exits with 1', async t => {
  const server = await startServer(t)
  const client = await server.open('cleans up', 'a')
  await connect(server.url('/throw'))
  t.equal(await client.ended, 'broken')
  t.strictSame(await server.exited, [1, null])
  t.match(server.said.slice(1), [{ event: 'closing', error: 'a fault somewhere' }, { event: 'cleaned up' }, { event: 'gone', reason: 'shutdown' }, { event: 'closed' }])
})

t.test('a listener of `stream.signal` that throws is an uncaught error: the stream ends as usual, and the process closes', async t => {
  // Node throws the error again in the next tick. See https://nodejs.org/api/events.html#eventtarget-error-handling
  const server = await startServer(t)
  const first = await server.open('has a listener that throws', 'a')
  const bystander = await server.open('subscribes', 'b')
  server.open('subscribes', 'a').catch(() => {})
  t.equal(await first.ended, 'clean')
  t.match(first.events, [{ event: 'octa-star-closed', data: 'replaced' }])
  t.equal(await bystander.ended, 'broken')
  t.strictSame(await server.exited, [1, null])
  t.match(server.said.find(line => line.event === 'closing'), { error: 'a fault in a listener' })
  t.match(server.said.find(line => line.event === 'gone' && line.tab === 'a'), { reason: 'replaced' })
})

t.test('if the process survives the error of a listener, the stream is gone and the successor starts', async t => {
  const server = await startServer(t, { SURVIVE: '1' })
  const first = await server.open('has a listener that throws', 'a')
  const second = await server.open('subscribes', 'a')
  t.equal(await first.ended, 'clean')
  t.equal(second.status, 200)
  await server.heard('survived')
  await server.heard('gone')
  t.match(server.said.find(line => line.event === 'gone'), { tab: 'a', reason: 'replaced' })
})
