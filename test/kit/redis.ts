// Starts Redis servers for a test, on free ports and without persistence: a single server, with or without TLS, or a Redis Cluster.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { Redis, type RedisOptions } from 'ioredis'
import type { Test } from 'tap'
import { makeCertificate } from './certificate.ts'
import { freePort } from './free-port.ts'
import { reasonToSkip } from './programs.ts'

/** Options for `t.test`: skip if redis-server is missing. On CI no test is skipped. */
export const redisOptions = {
  skip: reasonToSkip('redis-server')
}

export interface RedisServer {
  readonly port: number
  /** The options a client needs to connect. */
  readonly access: RedisOptions
  /** Makes a client, which is closed when the test ends. */
  client: (options?: RedisOptions) => Redis
  kill: () => Promise<void>
  signal: (name: NodeJS.Signals) => void
  start: () => Promise<void>
}

/**
 * Starts a Redis with `args`. If `args` ask for a password or TLS, `access` contains the options that clients then need.
 * `program` is another server that takes the arguments of redis-server.
 */
export async function redisServer (t: Test, args: string[] = [], access: RedisOptions = {}, program = 'redis-server'): Promise<RedisServer> {
  const port = await freePort()
  let server: ChildProcess | undefined
  const clients: Redis[] = []
  async function start () {
    const basics = ['--port', String(port), '--bind', '127.0.0.1']
    // A Sentinel keeps the state in a file, which must come first, and knows no persistence.
    const all = args.includes('--sentinel') ? [args[0]!, ...basics, ...args.slice(1)] : [...basics, '--save', '', '--appendonly', 'no', ...args]
    const child = server = spawn(program, all.map(arg => arg.replace('{port}', String(port))), { stdio: ['ignore', 'ignore', 'inherit'] })
    const probe = new Redis({ port, retryStrategy: () => 20, maxRetriesPerRequest: null, ...access })
    probe.on('error', () => {})
    const ended = once(child, 'exit').then(() => { throw new Error(`${program} ended before it listened`) })
    await Promise.race([probe.ping(), ended])
    ended.catch(() => {})
    probe.disconnect()
  }
  async function kill () {
    if (server === undefined || server.exitCode !== null || server.signalCode !== null) return
    server.kill('SIGKILL')
    await once(server, 'exit')
  }
  t.teardown(async () => {
    for (const client of clients) client.disconnect()
    await kill()
  })
  await start()
  return {
    port,
    access: { port, ...access },
    kill,
    signal (name) { server!.kill(name) },
    start,
    client (options = {}) {
      const client = new Redis({ port, ...access, ...options })
      client.on('error', () => {})
      clients.push(client)
      return client
    }
  }
}

/** The entries of all claims in Redis, as scripts.ts describes entries. Leaves out the records of members, the index of members and the marks of evictions. */
export async function entriesOf (redis: Redis): Promise<string[]> {
  const names = (await redis.keys('*')).filter(name => !/:members?(:|$)/.test(name) && !name.endsWith(':evicted'))
  const scopes = await Promise.all(names.map(name => redis.hgetall(name)))
  return scopes.flatMap(scope => Object.entries(scope).filter(([field]) => field !== '@').map(([, entry]) => entry))
}

/** Starts a Redis that accepts only TLS, and only clients with a certificate. */
export async function redisOverTls (t: Test): Promise<RedisServer> {
  const directory = temporaryDirectory(t)
  const [key, cert] = [join(directory, 'key.pem'), join(directory, 'cert.pem')]
  const made = makeCertificate(directory)
  const pem = { ...made, ca: made.cert }
  return await redisServer(t, ['--port', '0', '--tls-port', '{port}', '--tls-key-file', key, '--tls-cert-file', cert, '--tls-ca-cert-file', cert], { host: '127.0.0.1', tls: pem })
}

/** Starts a Redis Cluster of `count` masters, which share the slots evenly, and of `replicas` replicas, one for each of the first masters. Each node gets `args`. */
export async function redisNodes (t: Test, count: number, replicas = 0, args: string[] = []): Promise<RedisServer[]> {
  const directory = temporaryDirectory(t)
  const busPorts = await Promise.all(Array.from({ length: count + replicas }, freePort))
  const nodes = await Promise.all(busPorts.map(async (busPort, i) => await redisServer(t, [
    '--cluster-enabled', 'yes', '--cluster-port', String(busPort), '--cluster-announce-ip', '127.0.0.1', '--cluster-config-file', `nodes-${i}.conf`, '--dir', directory, ...args
  ])))
  const admins = nodes.map(node => node.client())
  const firstSlot = (i: number) => Math.floor(i * 16_384 / count)
  for (const [i, admin] of admins.entries()) {
    if (i < count) await admin.call('CLUSTER', 'ADDSLOTSRANGE', firstSlot(i), firstSlot(i + 1) - 1)
    await admin.call('CLUSTER', 'MEET', '127.0.0.1', nodes[0]!.port, busPorts[0]!)
  }
  const isWhole = async (admin: Redis) => {
    const info = String(await admin.call('CLUSTER', 'INFO'))
    return info.includes('cluster_state:ok') && info.includes(`cluster_known_nodes:${count + replicas}`)
  }
  for (const admin of admins) while (!await isWhole(admin)) await pause(20)
  for (let i = 0; i < replicas; i++) await admins[count + i]!.call('CLUSTER', 'REPLICATE', String(await admins[i]!.call('CLUSTER', 'MYID')))
  // Until every node knows every replica.
  for (const admin of admins) while (String(await admin.call('CLUSTER', 'NODES')).split('slave').length <= replicas) await pause(20)
  return nodes
}

/** Starts a replica of `master`. */
export async function redisReplica (t: Test, master: RedisServer): Promise<RedisServer> {
  return await redisServer(t, ['--replicaof', '127.0.0.1', String(master.port), '--repl-diskless-sync-delay', '0', '--dir', temporaryDirectory(t)])
}

/** Starts a master with `replicas` replicas, and a Sentinel that watches the master and the replicas by the name `mymaster`. */
export async function redisSentinel (t: Test, replicas = 0): Promise<{ port: number, master: RedisServer, replicas: RedisServer[] }> {
  const directory = temporaryDirectory(t)
  const master = await redisServer(t)
  const followers = await Promise.all(Array.from({ length: replicas }, async () => await redisReplica(t, master)))
  const config = join(directory, 'sentinel.conf')
  writeFileSync(config, `sentinel monitor mymaster 127.0.0.1 ${master.port} 1\nsentinel down-after-milliseconds mymaster 500\n`)
  const { port, client } = await redisServer(t, [config, '--sentinel', '--dir', directory])
  const admin = client()
  // A Sentinel learns of the replicas from the master, and can fail over only to a known replica.
  while (((await admin.call('SENTINEL', 'REPLICAS', 'mymaster')) as unknown[]).length < replicas) await pause(20)
  return { port, master, replicas: followers }
}

/** Makes a directory that is removed when the test ends. */
export function temporaryDirectory (t: Test): string {
  const directory = mkdtempSync(join(tmpdir(), 'octa-star-redis-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  return directory
}
