// The servers that are refused when a process joins the cluster, and the clean-up after a join that fails. servers.test.ts asks real servers.
import { EventEmitter } from 'node:events'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import octaStarStreams from '../../lib/index.ts'
import { redisCluster } from '../../lib/redis/index.ts'
import { checkVersion, VERSION } from '../../lib/redis/version.ts'
import type { RedisConnection } from '../../lib/redis/connection.ts'

const code = 'FST_ERR_OCTA_STAR_REDIS_VERSION'

function connectionThat (run: RedisConnection['run']): RedisConnection {
  return { canSend: true, isSubscribed: true, countsReceivers: true, nodeOf () {}, run, resubscribe () {}, close () {} }
}

const check = (run: RedisConnection['run'], timeout = 60_000) => checkVersion(connectionThat(run), 'app:', timeout)

t.test('a version before 6.2 is refused, and the error names the version', async t => {
  for (const version of ['2.8.24', '4.0.9', '5.0.14', '6.0.16', '6.1.240', '6.0.0-rc1']) {
    await t.rejects(check(async () => version), { code, message: `octa-star-streams: expected Redis 6.2 or later, or Valkey, got Redis ${version}. Update Redis` })
  }
})

t.test('a later version is accepted', async t => {
  for (const version of ['6.2.0', '6.10.1', '7.0.15', '7.2.4', '8.0.2', '10.0.0', '255.255.255']) await t.resolves(check(async () => version), version)
})

t.test('a server whose version cannot be read is accepted', async t => {
  for (const output of ['', 'unknown', '6', 6, null, undefined, ['5', 1]]) await t.resolves(check(async () => output), String(output))
  await t.resolves(check(async () => { throw new Error("NOPERM User x has no permissions to run the 'eval' command") }))
})

t.test('the script is sent once, with a key of the prefix, and only if somebody still waits for the answer', async t => {
  const wanted: boolean[] = []
  let ask: (() => boolean) | undefined
  await check(async (script, keys, args, isWanted) => {
    t.strictSame([script, keys, args], [VERSION, ['app:{0}:version'], []])
    wanted.push(isWanted!())
    ask = isWanted
    return await new Promise(() => {})
  }, 1)
  t.strictSame([...wanted, ask!()], [true, false])
})

/** A client of ioredis that is connected to a server of version `version`. */
class FakeClient extends EventEmitter {
  status = 'ready'
  readonly calls: Array<{ script: string, isVersion: boolean }> = []
  readonly subscribers: EventEmitter[] = []
  readonly #answer: (isVersion: boolean) => unknown

  constructor (answer: (isVersion: boolean) => unknown) {
    super()
    this.#answer = answer
  }

  createBuiltinCommand () {
    return {
      buffer: async (script: string) => {
        const isVersion = script === VERSION.sha
        this.calls.push({ script, isVersion })
        return await this.#answer(isVersion)
      }
    }
  }

  duplicate () {
    const subscriber = Object.assign(new EventEmitter(), { isClosed: false, async connect () {}, async subscribe () {}, disconnect () { this.isClosed = true } })
    this.subscribers.push(subscriber)
    return subscriber
  }
}

async function register (t: Test, client: FakeClient) {
  const fastify = Fastify()
  t.teardown(() => fastify.close())
  await fastify.register(octaStarStreams, { cluster: redisCluster({ redis: client as never }) })
}

/** The output of all scripts but the first, as far as the member reads the output: Redis's clock, and the records of 16 buckets. */
const beat = () => [Buffer.from(String(Date.now() * 1_000)), 1, ...Array.from({ length: 32 }, (_, i) => i % 2 === 0 ? -1 : 0)]

t.test('the registration fails with a server that is too old, and leaves no connection behind', async t => {
  const client = new FakeClient(isVersion => isVersion ? Buffer.from('5.0.14') : beat())
  await t.rejects(register(t, client), { code, message: /got Redis 5\.0\.14/ })
  t.strictSame(client.subscribers.map(subscriber => (subscriber as unknown as { isClosed: boolean }).isClosed), [true])
  t.strictSame(client.eventNames(), [], 'no listener is left on the client of the application')
})

t.test('a server is asked once, when the process joins', async t => {
  const client = new FakeClient(isVersion => isVersion ? Buffer.from('7.0.15') : beat())
  await register(t, client)
  t.equal(client.calls.filter(({ isVersion }) => isVersion).length, 1)
})

t.test('a server that is away when the process joins is not asked', async t => {
  const client = new FakeClient(isVersion => {
    if (isVersion) return Buffer.from('5.0.14')
    throw new Error('LOADING Redis is loading the dataset in memory')
  })
  await register(t, client)
  t.equal(client.calls.filter(({ isVersion }) => isVersion).length, 0)
})
