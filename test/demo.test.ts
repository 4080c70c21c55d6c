// The demo, in one process and in three processes. With deduplication a pulled cable leaves no zombie, and without deduplication each leaves a zombie.
import { mkdtemp } from 'node:fs/promises'
import t, { type Test } from 'tap'
import { startChild, startExample } from './kit/child.ts'
import { connect } from './kit/client.ts'
import { redisOptions } from './kit/redis.ts'

async function pullTheCable (t: Test, file: string): Promise<void> {
  const { url, signal, exited } = await startExample(t, file)
  const post = async (path: string, body = {}) => { await fetch(url + path, { method: 'POST', headers: { 'content-type': 'application/json', connection: 'close' }, body: JSON.stringify(body) }) }
  // A request that is in flight when the cable is pulled is never answered. So this function sends another request
  // every 200 ms and takes the first answer, however long the answer takes.
  const until = async (wanted: object) => {
    const over = new AbortController()
    await new Promise<void>((resolve, reject) => {
      const ask = async () => {
        const response = await fetch(`${url}/stats`, { signal: over.signal })
        const { now } = await response.json()
        if (Object.entries(wanted).every(([name, value]) => now[name] === value)) resolve()
      }
      const asking = setInterval(() => ask().catch(reject), 200)
      over.signal.addEventListener('abort', () => clearInterval(asking))
    }).finally(() => over.abort())
  }
  const visit = async (page: string) => {
    const client = await connect(`${url}/stream/${page}?tab=a`)
    await client.event(1)
  }

  for (const page of ['/', '/map', '/chat', '/page.js', '/page.css', '/octa-star/tab-id.js']) t.equal((await fetch(url + page)).status, 200, page)
  await visit('orders')
  for (let pulls = 1; pulls <= 3; pulls++) {
    await post('/cable')
    await until({ live: 0, zombies: 1 })
    await visit('map')
    await until({ live: 1, zombies: 0, replaced: pulls })
  }
  t.pass('with deduplication')

  await post('/deduplicate', { on: false })
  await until({ live: 0, zombies: 0 })
  for (let pulls = 1; pulls <= 3; pulls++) {
    await visit('chat')
    await post('/cable')
    await until({ live: 0, zombies: pulls, replaced: 3 })
  }
  t.pass('without')

  signal('SIGINT')
  t.strictSame(await exited, [0, null], 'Ctrl-C ends the demo, even with frozen connections')
}

t.test('pulling the cable and going to another page leaves no zombie with deduplication, and a zombie each time without deduplication', t => pullTheCable(t, 'examples/demo/server.js'))

t.test('three processes do the same', redisOptions, t => pullTheCable(t, 'examples/cluster/server.js'))

t.test('in three processes a stream replaces a stream of another process', redisOptions, async t => {
  const { url } = await startExample(t, 'examples/cluster/server.js')
  const places = new Set<string>()
  for (let i = 0; i < 3; i++) {
    const client = await connect(`${url}/stream/map?tab=a`)
    places.add(JSON.parse((await client.event(2)).data).place)
  }
  t.strictSame([...places].sort(), ['process 1', 'process 2', 'process 3'])
})

for (const [file, options] of [['examples/demo/server.js', {}], ['examples/cluster/server.js', redisOptions]] as const) {
  t.test(`${file} starts on a machine that reads files more slowly than timers fire`, options, async t => {
    const { url } = await startExample(t, file, { NODE_OPTIONS: '--import ./test/kit/slow-files.js' })
    t.match(await (await fetch(`${url}/stats`)).json(), { now: { live: 0, zombies: 0, replaced: 0 } })
  })
}

t.test('a port in use gives one clear line', async t => {
  const { url } = await startExample(t, 'examples/demo/server.js')
  const second = startChild(t, 'examples/demo/server.js', { PORT: new URL(url).port })
  t.strictSame(await second.exited, [1, null])
  t.match(second.errors(), /^Port \d+ is in use\. Choose another port: PORT=3001 npm run demo\n$/)
})

t.test('a machine without Redis gives one clear line', async t => {
  const { exited, errors } = startChild(t, 'examples/cluster/server.js', { PATH: await mkdtemp('/tmp/octa-star-empty-') })
  t.strictSame(await exited, [1, null])
  t.match(errors(), /^The demo cannot start on port \d+: it needs Redis\. Install redis-server, or use a running Redis: REDIS_URL=\S+ npm run example:cluster\n$/)
})
