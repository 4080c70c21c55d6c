// The recipe for pm2 in docs/recipes.md, with the real pm2 in cluster mode, two workers and Redis. The test installs pm2 in a temporary folder, because
// pm2 brings seventy packages.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import t, { type Test } from 'tap'
import './kit/build.js'
import { withSignals } from './kit/app.ts'
import { connect, type Client } from './kit/client.ts'
import { blocksOf } from './kit/document.ts'
import { freePort } from './kit/free-port.ts'
import { redisOptions, redisServer } from './kit/redis.ts'
import { root, run } from './kit/run.ts'

const blocks = blocksOf('docs/recipes.md')
const codeOf = (heading: string, language: string) => blocks.find(block => block.heading === heading && block.language === language)!.code
const onCluster = codeOf('node:cluster', 'js')
const onSignal = codeOf('pm2', 'js')
const IMPORT = /^import .*$/gm
const imports = new Set([onCluster, onSignal].flatMap(code => code.match(IMPORT)!))
// "Without the branch for the primary process".
const server = [...imports, onSignal.replaceAll(IMPORT, ''), /\} else \{\n(.*)\}/s.exec(onCluster)![1]].join('\n')
const { apps: [recipe] } = JSON.parse(codeOf('pm2', 'json'))

const folder = await mkdtemp(join(tmpdir(), 'octa-star-pm2-'))
t.teardown(() => rm(folder, { recursive: true, force: true }))

if (redisOptions.skip === false) {
  await writeFile(join(folder, 'package.json'), '{ "private": true }')
  await run('npm', ['install', '--no-audit', '--no-fund', '--omit=optional', 'pm2@7.0.4'], { cwd: folder })
}

/** Runs the server under a pm2 with a daemon of its own, with the settings of the recipe and `settings`. */
async function startServer (t: Test, settings: object = {}) {
  const redis = await redisServer(t)
  const port = await freePort()
  const home = await mkdtemp(join(folder, 'home-'))
  const env = { RECIPE: server, REDIS_PORT: String(redis.port), PORT: String(port) }
  // pm2 recognises a file of settings by its name.
  const file = join(home, 'ecosystem.config.json')
  await writeFile(file, JSON.stringify({ apps: [{ ...recipe, name: 'server', script: join(root, 'test/kit/recipe-process.js'), env, ...settings }] }))
  const variables = [`PATH=${process.env.PATH}`, `HOME=${home}`, `PM2_HOME=${home}`, 'PM2_DISABLE_VERSION_CHECK=true']
  const pm2 = async (...args: string[]) => (await run('env', ['-i', ...variables, process.execPath, join(folder, 'node_modules/pm2/bin/pm2'), ...args])).stdout
  t.teardown(async () => {
    const pid = Number(await readFile(join(home, 'pm2.pid'), 'utf8').catch(() => ''))
    await pm2('kill') // The workers first, and then the daemon.
    if (pid > 0) while (isAlive(pid)) await pause(20)
  })
  await pm2('start', file)
  const workers = async (): Promise<number[]> => JSON.parse(await pm2('jlist')).map(({ pid }: { pid: number }) => pid)
  return { pm2, workers, log: () => readFile(join(home, 'pm2.log'), 'utf8'), url: (path: string, tabId = 'a') => `http://127.0.0.1:${port}${withSignals(path, { tabId })}` }
}

function isAlive (pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

/** Connects as soon as a worker listens. */
async function connectSoon (url: string): Promise<Client> {
  for (;; await pause(20)) {
    try {
      return await connect(url)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ECONNREFUSED') throw error
    }
  }
}

/** Opens a stream of each worker. The first worker has the tab `a`, the second worker has the tab of another name. */
async function openOnBoth (url: (path: string, tabId?: string) => string): Promise<[first: Client, second: Client]> {
  const first = await connectSoon(url('/orders'))
  const { data: worker } = await first.event(1)
  for (let i = 0; ; i++, await pause(20)) {
    const second = await connect(url('/orders', `b${i}`))
    if ((await second.event(1)).data !== worker) return [first, second]
    second.leave()
  }
}

t.test('pm2: the workers act as one, and their clients come back when pm2 reloads them', redisOptions, async t => {
  // A new worker has as long as it needs on a busy machine.
  const { pm2, workers, log, url } = await startServer(t, { listen_timeout: 120_000 })

  const [first, second] = await openOnBoth(url)
  t.strictSame([first.events[0]!.data, second.events[0]!.data].sort(), (await workers()).map(String).sort())
  const response = await fetch(url('/send'), { method: 'POST', headers: { connection: 'close' } })
  t.equal(await response.text(), '2', 'streamRegistry.send counts the streams of both workers')
  for (const client of [first, second]) t.equal((await client.event(2)).data, 'to all workers')
  second.leave()

  // The tab's next stream, until one of them has come to the other worker.
  let last = first
  for (let moved = false; !moved;) {
    const next = await connect(url('/orders'))
    t.equal(await last.ended, 'clean')
    t.match(last.events.at(-1), { event: 'octa-star-closed', data: 'replaced' })
    moved = (await next.event(1)).data !== last.events[0]!.data
    last = next
  }
  last.leave()

  const old = await workers()
  const clients = await openOnBoth(url)
  // The more clients connect during the reload, the likelier a connection is on the way to a worker that exits.
  const back = [...clients, undefined, undefined, undefined, undefined].map(async (client, i) => {
    if (client !== undefined) {
      t.equal(await client.ended, 'broken')
      t.notMatch(client.text, 'octa-star-closed')
    }
    // As an EventSource does. A worker that shuts down breaks a request off before the first byte, and a refused connection is an error here.
    for (;;) {
      const again = await connect(url('/orders', `back${i}`)).catch(error => {
        if (error.code !== 'ECONNRESET') throw error
      })
      if (again === undefined) continue
      t.equal(again.status, 200)
      const { data } = await again.event(1)
      if (!old.includes(Number(data))) return again
      t.equal(await again.ended, 'broken')
    }
  })
  await pm2('reload', 'server')
  const returned = await Promise.all(back)
  const current = (await workers()).map(String)
  for (const client of returned) t.ok(current.includes(client.events[0]!.data))
  t.equal(old.some(isAlive), false)
  const steps = [...(await log()).matchAll(/-reload- New worker listening|App \[server:_old_\d\] exited .*/g)].map(([step]) => step)
  t.strictSame(steps, [0, 1].flatMap(id => ['-reload- New worker listening', `App [server:_old_${id}] exited with code [0] via signal [SIGINT]`]))
  for (const client of returned) client.leave()
})

// A cleanup that does not settle holds `fastify.close()` up for `replaceTimeout`, which is 5 s by default.
t.test('pm2: with the kill_timeout of the recipe a worker that stops has the time to close', redisOptions, async t => {
  const { pm2, log, url } = await startServer(t, { instances: 1 })
  const client = await connectSoon(url('/stuck'))
  await pm2('stop', 'server')
  t.equal(await client.ended, 'broken')
  t.match(await log(), /App \[server:0\] exited with code \[0\] via signal \[SIGINT\]/)
  t.notMatch(await log(), /SIGKILL/)
})

t.test('pm2: without kill_timeout pm2 kills a worker 1.6 s after SIGINT', redisOptions, async t => {
  const { pm2, log, url } = await startServer(t, { instances: 1, kill_timeout: undefined })
  const client = await connectSoon(url('/stuck'))
  await pm2('stop', 'server')
  t.equal(await client.ended, 'broken')
  t.match(await log(), /still alive after 1600ms, sending SIGKILL/)
  t.match(await log(), /App \[server:0\] exited with code \[0\] via signal \[SIGKILL\]/)
})
