// The connection with each client library, when Redis refuses, delays or breaks the connection, and the values that scripts return.
import { hash } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import { inspect } from 'node:util'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { Cluster, Redis } from 'ioredis'
import { Cluster as Cluster5, Redis as Redis5 } from 'ioredis-5'
import { Redis as Valkey } from 'iovalkey'
import { createClient, createClientPool, createCluster, createSentinel, RESP_TYPES } from 'redis'
import { createClient as createClient5, createCluster as createCluster5, createSentinel as createSentinel5 } from 'redis-5'
import t, { type Test } from 'tap'
import { driverOf, type RedisClient } from '../../lib/redis/clients/index.ts'
import { DrivenConnection } from '../../lib/redis/connection.ts'
import { redisCluster } from '../../lib/redis/index.ts'
import { clusterContext } from '../kit/cluster-context.ts'
import { memoryLog } from '../kit/memory-log.ts'
import { redisNodes, redisOptions, redisSentinel, redisServer, type RedisServer } from '../kit/redis.ts'

interface Credentials {
  username?: string
  password?: string
}

interface Client {
  redis: RedisClient
  connect: () => Promise<unknown>
  close: () => unknown
}

/** The Redis servers of a test, and the port at which a client begins. */
interface Site {
  port: number
  servers: RedisServer[]
}

interface Kind {
  start: (t: Test) => Promise<Site>
  make: (port: number, credentials: Credentials) => Client
}

async function single (t: Test): Promise<Site> {
  const server = await redisServer(t)
  return { port: server.port, servers: [server] }
}

async function sentinel (t: Test): Promise<Site> {
  const { port, master } = await redisSentinel(t)
  return { port, servers: [master] }
}

async function nodes (t: Test): Promise<Site> {
  const servers = await redisNodes(t, 3)
  return { port: servers[0]!.port, servers }
}

/** A client of ioredis or iovalkey connects by itself. */
function io (redis: RedisClient & { disconnect (): void }): Client {
  redis.on('error', () => {})
  return { redis, connect: async () => {}, close: () => redis.disconnect() }
}

function node (redis: RedisClient & { connect (): Promise<unknown>, destroy (): unknown, isOpen: boolean }): Client {
  redis.on('error', () => {})
  return { redis, connect: () => redis.connect(), close: () => { if (redis.isOpen) redis.destroy() } }
}

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as () => void

const host = '127.0.0.1'
// Applications use these options for commands of their own.
const timeouts = { commandTimeout: 300, maxRetriesPerRequest: 0, enableOfflineQueue: false }
const bytes = { [RESP_TYPES.BLOB_STRING]: Buffer, [RESP_TYPES.SIMPLE_STRING]: Buffer, [RESP_TYPES.NUMBER]: String }

const kinds: Record<string, Kind> = {
  ioredis: { start: single, make: (port, credentials) => io(new Redis({ port, ...credentials, ...timeouts, stringNumbers: true })) },
  'ioredis 5': { start: single, make: (port, credentials) => io(new Redis5({ port, ...credentials, ...timeouts, retryStrategy: () => null, stringNumbers: true, enableReadyCheck: false, enableAutoPipelining: true })) },
  iovalkey: { start: single, make: (port, credentials) => io(new Valkey({ port, ...credentials, ...timeouts, lazyConnect: true })) },
  'ioredis with Sentinel': { start: sentinel, make: (port, credentials) => io(new Redis({ sentinels: [{ host, port }], name: 'mymaster', ...credentials, ...timeouts })) },
  'ioredis with a Redis Cluster': { start: nodes, make: (port, credentials) => io(new Cluster([{ host, port }], { lazyConnect: true, redisOptions: { ...credentials, ...timeouts, stringNumbers: true } })) },
  'ioredis 5 with a Redis Cluster': { start: nodes, make: (port, credentials) => io(new Cluster5([{ host, port }], { enableAutoPipelining: true, scaleReads: 'slave', redisOptions: { ...credentials, commandTimeout: 300 } })) },
  redis: { start: single, make: (port, credentials) => node(createClient({ ...credentials, socket: { host, port } })) },
  'redis 5': { start: single, make: (port, credentials) => node(createClient5({ ...credentials, socket: { host, port, reconnectStrategy: false }, RESP: 3, commandOptions: { typeMapping: bytes } })) },
  'a pool of redis': { start: single, make: (port, credentials) => node(createClientPool({ ...credentials, socket: { host, port }, commandOptions: { typeMapping: bytes } })) },
  'redis with Sentinel': { start: sentinel, make: (port, credentials) => node(createSentinel({ name: 'mymaster', sentinelRootNodes: [{ host, port }], nodeClientOptions: credentials, commandOptions: { typeMapping: bytes } })) },
  'redis 5 with Sentinel': { start: sentinel, make: (port, credentials) => node(createSentinel5({ name: 'mymaster', sentinelRootNodes: [{ host, port }], nodeClientOptions: credentials })) },
  'redis with a Redis Cluster': { start: nodes, make: (port, credentials) => node(createCluster({ rootNodes: [{ socket: { host, port } }], defaults: credentials, RESP: 2, commandOptions: { typeMapping: bytes } })) },
  'redis 5 with a Redis Cluster': { start: nodes, make: (port, credentials) => node(createCluster5({ rootNodes: [{ socket: { host, port } }], defaults: credentials })) }
}

/** A connection, and what the connection has reported. */
function open (t: Test, redis: RedisClient) {
  const said = { messages: [] as string[], deaf: [] as string[], readies: 0 }
  const connection = new DrivenConnection(driverOf(redis)!(), {
    channel: 'ch',
    onMessage (message) { said.messages.push(message) },
    onReady () { said.readies++ },
    onDeaf ({ message }) { said.deaf.push(message) }
  })
  t.teardown(() => connection.close())
  return { connection, said }
}

async function until (condition: () => boolean): Promise<void> {
  while (!condition()) await pause(2)
}

function script (lua: string) {
  return { lua, sha: hash('sha1', lua) }
}

for (const [name, kind] of Object.entries(kinds)) {
  t.test(name, redisOptions, async t => {
    const { port, servers } = await kind.start(t)
    const admins = servers.map(server => server.client())
    const onAll = (...command: [string, ...string[]]) => Promise.all(admins.map(admin => admin.call(...command)))
    const connect = async (t: Test, credentials: Credentials = {}) => {
      const client = kind.make(port, credentials)
      t.teardown(() => client.close())
      await client.connect()
      return client.redis
    }
    const subscriptions = async () => {
      const counts = await Promise.all(admins.map(async admin => Number((await admin.call('PUBSUB', 'NUMSUB', 'ch') as unknown[])[1])))
      return counts.reduce((sum, count) => sum + count)
    }
    /** Resolves when the connection hears a message that another client publishes. */
    const hears = async ({ said }: ReturnType<typeof open>, message: string) => {
      await admins.at(-1)!.publish('ch', message)
      await until(() => said.messages.includes(message))
    }

    t.test('a refused SUBSCRIBE is reported with Redis\'s words, and tried again until Redis allows it', async t => {
      await onAll('ACL', 'SETUSER', 'app', 'on', '>secret', '~*', '+@all', 'resetchannels')
      const open1 = open(t, await connect(t, { username: 'app', password: 'secret' }))
      await until(() => open1.said.deaf.filter(message => /NOPERM/.test(message)).length >= 2)
      t.equal(open1.connection.isSubscribed, false)
      await onAll('ACL', 'SETUSER', 'app', '&*')
      await until(() => open1.connection.isSubscribed)
      t.ok(open1.said.readies > 0)
      await hears(open1, 'allowed')
    })

    t.test('a broken subscription is noticed at once, reported, and made again', async t => {
      const open1 = open(t, await connect(t))
      await until(() => open1.connection.isSubscribed)
      const { readies } = open1.said
      for (let round = 1; round <= 3; round++) {
        // On a busy machine the subscription may be back before the last server has replied.
        const lost = until(() => !open1.connection.isSubscribed)
        await onAll('CLIENT', 'KILL', 'TYPE', 'pubsub')
        await lost
        t.equal(open1.said.deaf.length, round)
        await until(() => open1.connection.isSubscribed)
        await hears(open1, `round ${round}`)
      }
      t.ok(open1.said.readies >= readies + 3)
      open1.connection.resubscribe()
      t.equal(open1.connection.isSubscribed, false)
      await until(() => open1.connection.isSubscribed)
      await hears(open1, 'resubscribed')
    })

    t.test('a SUBSCRIBE that Redis answers late is awaited, whatever commandTimeout is', async t => {
      const open1 = open(t, await connect(t))
      await until(() => open1.connection.isSubscribed)
      const lost = until(() => !open1.connection.isSubscribed)
      await onAll('CLIENT', 'KILL', 'TYPE', 'pubsub')
      // Longer than `commandTimeout`.
      await onAll('CLIENT', 'PAUSE', '900', 'ALL')
      await lost
      await until(() => open1.connection.isSubscribed)
      t.equal(open1.said.deaf.length, 1)
      await hears(open1, 'after the pause')
    })

    t.test('a script returns the same values, whatever the client\'s options are', async t => {
      const { connection } = open(t, await connect(t))
      await until(() => connection.canSend)
      const values = script("return { 1, '2', 'ä', { -3, {} }, false, redis.status_reply('OK'), #KEYS, KEYS[1], ARGV[1], ARGV[2] }")
      const run = () => connection.run(values, ['{a}'], ['four', 5])
      const expected = [1, '2', 'ä', [-3, []], null, 'OK', 1, '{a}', 'four', '5']
      t.strictSame(await run(), expected)
      t.strictSame(await run(), expected, 'by its digest')
      await onAll('SCRIPT', 'FLUSH')
      t.strictSame(await run(), expected, 'after Redis has forgotten the script')
      await onAll('SCRIPT', 'FLUSH')
      t.equal(await connection.run(values, ['{a}'], [], () => false), undefined)
      await t.rejects(connection.run(script("return redis.error_reply('READONLY no')"), ['{a}'], []), { message: /READONLY no/ })
    })

    // A script may carry an event, and its error is logged.
    t.test('the error of a script does not contain the arguments', async t => {
      const { connection } = open(t, await connect(t))
      await until(() => connection.canSend)
      const refused = script("return redis.error_reply('ERR refused')")
      const error = await connection.run(refused, ['{0}:key'], ['the text of an event']).then(() => undefined, error => error)
      t.match(error, { message: /refused/ })
      t.notMatch(inspect(error, { depth: 10, showHidden: true }), 'the text of an event')
    })

    t.test('closing leaves no connection of ours, and leaves the application\'s client as it was', async t => {
      const redis = await connect(t)
      const emitter = redis as RedisClient & { listenerCount (event: string): number }
      const listeners = () => ['ready', 'connect', 'topology-change'].map(event => emitter.listenerCount(event))
      const before = listeners()
      const open1 = open(t, redis)
      await until(() => open1.connection.isSubscribed && open1.connection.canSend)
      while (await subscriptions() !== 1) await pause(2)
      const seven = script('return 7')
      t.equal(await open1.connection.run(seven, ['a'], []), 7)
      open1.connection.close()
      // This connection is closed while it is being made.
      open(t, redis).connection.close()
      while (await subscriptions() > 0) await pause(2)
      t.strictSame(listeners(), before)
      t.strictSame(open1.said.deaf, [])
      const open2 = open(t, redis)
      await until(() => open2.connection.isSubscribed && open2.connection.canSend)
      t.equal(await open2.connection.run(seven, ['a'], []), 7)
    })

    t.test('the subscription returns after a restart of Redis, even if the application\'s client has given up', async t => {
      const open1 = open(t, await connect(t))
      await until(() => open1.connection.isSubscribed)
      await Promise.all(servers.map(server => server.kill()))
      await until(() => !open1.connection.isSubscribed)
      await until(() => open1.said.deaf.some(message => /ECONNREFUSED/.test(message)) || kind.start !== single)
      await Promise.all(servers.map(server => server.start()))
      await until(() => open1.connection.isSubscribed)
      await hears(open1, 'after the restart')
    })
  })
}

interface Copy {
  destroy (): void
}

/** Watches the clients that drivers make for connections of their own. Only these clients never reconnect, and are made by `duplicate`. */
function watchCopies (t: Test, client: object): Array<WeakRef<Copy>> {
  const copies: Array<WeakRef<Copy>> = []
  let prototype = Object.getPrototypeOf(client)
  while (!Object.hasOwn(prototype, 'duplicate')) prototype = Object.getPrototypeOf(prototype)
  const { duplicate } = prototype
  prototype.duplicate = function (overrides?: { socket?: { reconnectStrategy?: unknown } }) {
    const copy = duplicate.call(this, overrides)
    if (overrides?.socket?.reconnectStrategy === false) copies.push(new WeakRef(copy))
    return copy
  }
  t.teardown(() => { prototype.duplicate = duplicate })
  return copies
}

t.test('a connection of a client of redis that failed or broke leaves nothing in memory', redisOptions, async t => {
  const owning = ['a pool of redis', 'redis with Sentinel', 'redis 5 with Sentinel']
  for (const name of ['redis', 'redis 5', ...owning, 'redis with a Redis Cluster', 'redis 5 with a Redis Cluster']) {
    t.test(name, async t => {
      const { port, servers } = await kinds[name]!.start(t)
      await Promise.all(servers.map(server => server.client().call('ACL', 'SETUSER', 'app', 'on', '>secret', '~*', '+@all', 'resetchannels')))
      const { redis, connect, close } = kinds[name]!.make(port, { username: 'app', password: 'secret' })
      t.teardown(close)
      await connect()
      const copies = watchCopies(t, name.startsWith('redis 5') ? createClient5() : createClient())
      const driver = driverOf(redis)!()
      t.teardown(() => driver.close())
      const ownConnections = owning.includes(name) ? 1 : 0
      for (let i = 0; i < 5 * ownConnections; i++) {
        await until(() => driver.canSend)
        copies.at(-1)!.deref()!.destroy()
        await until(() => !driver.canSend)
      }
      await until(() => driver.canSend)
      async function subscribe () {
        const attempt = new AbortController()
        await t.rejects(driver.subscribe({ channel: 'ch', signal: attempt.signal, onMessage () {}, onLost () {} }), { message: /NOPERM/ })
        attempt.abort()
      }
      for (let i = 0; i < 20; i++) await subscribe()
      t.equal(copies.length, 20 + 6 * ownConnections)
      const alive = () => copies.filter(copy => copy.deref() !== undefined).length
      // A socket needs a moment to close.
      for (let i = 0; i < 100 && alive() > ownConnections; i++) {
        await pause(20)
        gc()
      }
      t.equal(alive(), ownConnections)
    })
  }
})

t.test('a pool whose clients are all busy does not keep the adapter from connecting again', redisOptions, async t => {
  const server = await redisServer(t)
  const pool = createClientPool({ socket: { host, port: server.port } }, { minimum: 1, maximum: 2 })
  pool.on('error', () => {})
  await pool.connect()
  t.teardown(() => pool.destroy())
  const { connection, said } = open(t, pool)
  await until(() => connection.canSend && connection.isSubscribed)
  const admin = server.client()
  const clients = async () => String(await admin.client('LIST')).trim().split('\n')
  for (const key of ['mails', 'jobs']) pool.blPop(key, 0).catch(() => {})
  while ((await clients()).filter(client => client.includes('cmd=blpop')).length < 2) await pause(10)
  const own = (await clients()).filter(client => !client.includes('cmd=blpop') && !client.includes('cmd=client'))
  t.equal(own.length, 2)
  const { readies } = said
  for (const client of own) await admin.client('KILL', 'ID', /^id=(\d+)/.exec(client)![1]!)
  await until(() => said.readies >= readies + 2 && connection.canSend && connection.isSubscribed)
})

t.test('with Sentinel, commands and the subscription follow the master', redisOptions, async t => {
  for (const name of ['ioredis with Sentinel', 'redis with Sentinel', 'redis 5 with Sentinel']) {
    t.test(name, async t => {
      const { port, master, replicas: [replica] } = await redisSentinel(t, 1)
      const { redis, connect, close } = kinds[name]!.make(port, {})
      t.teardown(close)
      await connect()
      const { connection, said } = open(t, redis)
      await until(() => connection.isSubscribed && connection.canSend)
      const write = script("return redis.call('INCR', KEYS[1])")
      await connection.run(write, ['a'], [])
      await master.kill()
      await until(() => !connection.isSubscribed)
      const written = async () => connection.canSend && connection.run(write, ['a'], []).then(value => Number(value) > 0, () => false)
      while (!await written()) await pause(20)
      const admin = replica!.client()
      t.ok(Number(await admin.get('a')) > 0, 'the replica is the master now')
      while (!said.messages.includes('from the new master')) {
        await admin.publish('ch', 'from the new master')
        await pause(20)
      }
      t.equal(connection.isSubscribed, true)
    })
  }
})

t.test('scripts go to masters, even if the application reads from replicas', redisOptions, async t => {
  const servers = await redisNodes(t, 3, 3)
  const { port } = servers[0]!
  const clients = {
    'ioredis, scaleReads: slave': io(new Cluster([{ host, port }], { scaleReads: 'slave' })),
    'ioredis, scaleReads: all': io(new Cluster([{ host, port }], { scaleReads: 'all', enableAutoPipelining: true })),
    'ioredis 5, scaleReads: slave': io(new Cluster5([{ host, port }], { scaleReads: 'slave', enableAutoPipelining: true })),
    'redis, useReplicas': node(createCluster({ rootNodes: [{ socket: { host, port } }], useReplicas: true })),
    'redis 5, useReplicas': node(createCluster5({ rootNodes: [{ socket: { host, port } }], useReplicas: true }))
  }
  const write = script("return redis.call('SET', KEYS[1], ARGV[1])")
  for (const [name, { redis, connect, close }] of Object.entries(clients)) {
    t.teardown(close)
    await connect()
    const { connection } = open(t, redis)
    await until(() => connection.isSubscribed && connection.canSend)
    const replies = await Promise.all(Array.from({ length: 64 }, (_, i) => connection.run(write, [`{${i}}`], [name])))
    t.strictSame([...new Set(replies)], ['OK'], name)
  }
  for (const replica of servers.slice(3)) t.notMatch(await replica.client().info('commandstats'), /cmdstat_eval/)
})

t.test('a client of redis that the application connects later is warned of, and then used', redisOptions, async t => {
  for (const name of ['redis', 'redis 5', 'a pool of redis', 'redis with Sentinel', 'redis 5 with Sentinel', 'redis with a Redis Cluster', 'redis 5 with a Redis Cluster']) {
    t.test(name, async t => {
      const { port, servers } = await kinds[name]!.start(t)
      const { redis, connect, close } = kinds[name]!.make(port, {})
      const { connection } = open(t, redis)
      t.equal(connection.canSend, false)
      connection.close()
      const { log, lines } = memoryLog()
      const member = await redisCluster({ redis }).join(clusterContext({ log, replaceTimeout: 200 }))
      t.teardown(async () => {
        await member.leave()
        await close()
      })
      t.match(lines, [{ level: 'warn', details: { err: { message: /^the client must be connected to Redis and subscribed to octa-star:member:\S+ within 100 ms, and is not/ } } }])
      await connect()
      const admins = servers.map(server => server.client())
      const channels = async () => (await Promise.all(admins.map(admin => admin.call('PUBSUB', 'CHANNELS', 'octa-star:*')))).flat().length
      // The member logs that Redis is back.
      while (await channels() !== 1 || !lines.some(({ level }) => level === 'info')) await pause(5)
    })
  }
})
