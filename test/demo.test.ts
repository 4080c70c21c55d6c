// The demo: with deduplication a pulled cable leaves no zombie, without it each one does; a port in use is one clear line.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { connect } from './kit/client.ts'

const root = fileURLToPath(new URL('..', import.meta.url))

function start (port: number) {
  // Without tap's loaders: what runs there is the build, which the other tests cover as source.
  return spawn('env', ['-u', 'NODE_OPTIONS', '-u', 'NODE_V8_COVERAGE', process.execPath, 'examples/demo/server.js'], { cwd: root, env: { ...process.env, PORT: String(port) } })
}

async function startDemo (t: Test) {
  const demo = start(0)
  t.teardown(() => demo.kill('SIGKILL'))
  const [line] = await once(createInterface(demo.stdout), 'line')
  return { demo, url: /http:\/\/localhost:\d+/.exec(line)![0].replace('localhost', '127.0.0.1') }
}

t.test('pulling the cable and going to another page: no zombie with deduplication, one each without', async t => {
  const { demo, url } = await startDemo(t)
  const post = async (path: string, body = {}) => { await fetch(url + path, { method: 'POST', headers: { 'content-type': 'application/json', connection: 'close' }, body: JSON.stringify(body) }) }
  // One that is under way when the cable is pulled freezes with it.
  const stats = async () => {
    const response = await fetch(`${url}/stats`, { signal: AbortSignal.timeout(500) }).then(response => response.json(), () => ({ now: {} }))
    return response.now
  }
  const until = async (wanted: object) => {
    for (;;) {
      const now = await stats()
      if (Object.entries(wanted).every(([name, value]) => now[name] === value)) return
    }
  }
  const visit = async (page: string) => {
    const client = await connect(`${url}/stream/${page}?tab=a`)
    await client.event(1)
  }

  for (const page of ['/', '/map', '/chat', '/page.js', '/page.css']) t.equal((await fetch(url + page)).status, 200, page)
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

  demo.kill('SIGINT')
  t.strictSame(await once(demo, 'exit'), [0, null], 'Ctrl-C ends it, with frozen connections too')
})

t.test('a port in use gives one clear line', async t => {
  const { url } = await startDemo(t)
  const second = start(Number(new URL(url).port))
  let said = ''
  second.stderr.on('data', text => { said += text })
  t.strictSame(await once(second, 'close'), [1, null])
  t.match(said, /^Port \d+ is in use: choose another, as in PORT=3001 npm run demo\n$/)
})
