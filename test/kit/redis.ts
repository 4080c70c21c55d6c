// Starts Redis servers for one test, on free ports and without persistence: a single server, with or without TLS, or a Redis Cluster.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
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
  start: () => Promise<void>
}

/** Starts a Redis with `args`. If `args` ask for a password or TLS, `access` contains the options that clients then need. */
export async function redisServer (t: Test, args: string[] = [], access: RedisOptions = {}): Promise<RedisServer> {
  const port = await freePort()
  let server: ChildProcess | undefined
  const clients: Redis[] = []
  async function start () {
    const child = server = spawn('redis-server', ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', ...args.map(arg => arg.replace('{port}', String(port)))], { stdio: ['ignore', 'ignore', 'inherit'] })
    const probe = new Redis({ port, retryStrategy: () => 20, maxRetriesPerRequest: null, ...access })
    probe.on('error', () => {})
    const ended = once(child, 'exit').then(() => { throw new Error('redis-server ended before it listened') })
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
    start,
    client (options = {}) {
      const client = new Redis({ port, ...access, ...options })
      client.on('error', () => {})
      clients.push(client)
      return client
    }
  }
}

/** The entries of all claims in Redis. Leaves out the fields that hold the predecessors a claim waits for, whose names begin with `<`. */
export async function entriesOf (redis: Redis): Promise<string[]> {
  const scopes = await Promise.all((await redis.keys('*')).map(name => redis.hgetall(name)))
  return scopes.flatMap(scope => Object.entries(scope)).filter(([field]) => !field.startsWith('<')).map(([, entry]) => entry)
}

/** Starts a Redis that accepts only TLS, and only clients with a certificate. */
export async function redisOverTls (t: Test): Promise<RedisServer> {
  const directory = temporaryDirectory(t)
  const [key, cert] = [join(directory, 'key.pem'), join(directory, 'cert.pem')]
  const made = makeCertificate(directory)
  const pem = { ...made, ca: made.cert }
  return await redisServer(t, ['--port', '0', '--tls-port', '{port}', '--tls-key-file', key, '--tls-cert-file', cert, '--tls-ca-cert-file', cert], { host: '127.0.0.1', tls: pem })
}

/** Starts a Redis Cluster of `count` nodes. All nodes are masters and share the slots evenly. */
export async function redisNodes (t: Test, count: number): Promise<RedisServer[]> {
  const directory = temporaryDirectory(t)
  const busPorts = await Promise.all(Array.from({ length: count }, freePort))
  const nodes = await Promise.all(busPorts.map(async (busPort, i) => await redisServer(t, [
    '--cluster-enabled', 'yes', '--cluster-port', String(busPort), '--cluster-announce-ip', '127.0.0.1', '--cluster-config-file', `nodes-${i}.conf`, '--dir', directory
  ])))
  const admins = nodes.map(node => node.client())
  const firstSlot = (i: number) => Math.floor(i * 16_384 / count)
  for (const [i, admin] of admins.entries()) {
    await admin.call('CLUSTER', 'ADDSLOTSRANGE', firstSlot(i), firstSlot(i + 1) - 1)
    await admin.call('CLUSTER', 'MEET', '127.0.0.1', nodes[0]!.port, busPorts[0]!)
  }
  const isWhole = async (admin: Redis) => {
    const info = String(await admin.call('CLUSTER', 'INFO'))
    return info.includes('cluster_state:ok') && info.includes(`cluster_known_nodes:${count}`)
  }
  for (const admin of admins) while (!await isWhole(admin)) await pause(20)
  return nodes
}

function temporaryDirectory (t: Test): string {
  const directory = mkdtempSync(join(tmpdir(), 'octa-star-redis-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  return directory
}
