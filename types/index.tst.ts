// The types as a user meets them.
import Fastify, { type FastifyRequest } from 'fastify'
import type { FastifyRedis } from '@fastify/redis'
import { Cluster, Redis } from 'ioredis'
import { Cluster as Cluster5, Redis as Redis5 } from 'ioredis-5'
import { Cluster as ValkeyCluster, Redis as Valkey } from 'iovalkey'
import * as nodeRedis from 'redis'
import * as nodeRedis5 from 'redis-5'
import { describe, expect, test } from 'tstyche'
import octaStarStreams, {
  octaStarStreams as named, streamKey,
  type CloseReason, type Holder, type MessageTarget, type ScopeKey, type SendOptions, type Stream, type StreamInfo, type StreamKey, type StreamMessage
} from '../lib/index.ts'
import { datastar, type DatastarStream, type DatastarTarget } from '../lib/datastar.ts'
import { redisCluster } from '../lib/redis/index.ts'

const fastify = Fastify()

describe('registration', () => {
  test('takes every option, and no other', () => {
    expect(fastify.register).type.toBeCallableWith(octaStarStreams)
    expect(fastify.register).type.toBeCallableWith(named, {
      signal: 'tabId', tabId: (request: FastifyRequest) => request.ip, replaceTimeout: 1, closeGrace: 1, maxStreamsPerScope: 1, onLimit: 'reject', sse: { heartbeatInterval: 1 }
    })
    fastify.register(octaStarStreams, { tabId: request => { expect(request).type.toBeAssignableTo<FastifyRequest>(); return request.query.tab } })
    fastify.register(octaStarStreams, { tabId: (request: FastifyRequest<{ Querystring: { tab: string } }>) => request.query.tab })
    expect(fastify.register).type.not.toBeCallableWith(octaStarStreams, { onLimit: 'replace' })
    expect(fastify.register).type.not.toBeCallableWith(octaStarStreams, { replaceTimeout: '5s' })
    expect(fastify.register).type.not.toBeCallableWith(octaStarStreams, { unknown: true })
  })

  test('lets a route say `sse`, and gives its reply startStream', () => {
    fastify.get('/stream', { sse: 'only' }, async (_request, reply) => {
      expect(reply.startStream(['ann', 7])).type.toBe<Promise<Stream>>()
      expect(reply.startStream).type.toBeCallableWith({ user: 1n, admin: true }, { name: 'chat' })
      expect(reply.startStream).type.not.toBeCallableWith(undefined)
      expect(reply.startStream).type.not.toBeCallableWith(null)
      expect(reply.startStream).type.not.toBeCallableWith(() => 'ann')
      expect(reply.startStream).type.not.toBeCallableWith('ann', { tab: 'a' })
      expect(reply.startStream).type.toBeCallableWith('ann', { name: undefined })
    })
  })
})

describe('a scope key', () => {
  interface User { id: string, org?: { team: number } }
  interface Account { owner: User, roles: readonly string[] }
  const user: User = { id: 'ann' }
  const account: Account = { owner: user, roles: ['admin'] }

  test('is also a value of an interface', () => {
    expect(streamKey(user)).type.toBe<StreamKey>()
    expect(streamKey(account)).type.toBe<StreamKey>()
    expect(streamKey([user, 7])).type.toBe<StreamKey>()
    const { streamRegistry } = fastify
    for (const method of [streamRegistry.evict, streamRegistry.count, streamRegistry.to, streamRegistry.streams, streamRegistry.list]) {
      expect(method).type.toBeCallableWith(account)
    }
    expect(streamRegistry.send).type.toBeCallableWith(user, 'text')
    expect(streamRegistry.get).type.toBeCallableWith(user, 'a')
    fastify.get('/interface', async (_request, reply) => { expect(reply.startStream).type.toBeCallableWith(user) })
  })

  test('is a union or a generic value of the application', () => {
    const union = user as User | string | bigint
    expect(streamKey(union)).type.toBe<StreamKey>()
    const start = <Key extends ScopeKey>(key: Key) => streamKey(key)
    expect(start).type.toBeCallableWith('ann')
  })

  test('has nothing in it that does not identify anybody', () => {
    expect(streamKey).type.not.toBeCallableWith(user as User | undefined)
    expect(streamKey).type.not.toBeCallableWith({ id: user.org })
    expect(streamKey).type.not.toBeCallableWith([undefined])
    expect(streamKey).type.not.toBeCallableWith(new Date())
    expect(streamKey).type.not.toBeCallableWith(new Map())
    expect(streamKey).type.not.toBeCallableWith({ id () {} })
    expect(streamKey).type.not.toBeCallableWith(Symbol('ann'))
  })
})

describe('a stream', () => {
  const stream = {} as Stream

  test('has its parts', () => {
    expect(stream.scopeKey).type.toBe<ScopeKey>()
    expect(stream.tabId).type.toBe<string | undefined>()
    expect(stream.signal).type.toBe<AbortSignal>()
    expect(stream.closed).type.toBe<Promise<CloseReason>>()
    expect(stream).type.toBeAssignableTo<Holder>()
  })

  test('sends strings and messages', () => {
    expect(stream.send).type.toBeCallableWith('hello')
    expect(stream.send).type.toBeCallableWith({ event: 'order', id: '1', retry: 1, data: { any: 'thing' } })
    expect(stream.send).type.toBeCallableWith({ id: 1 })
    expect(stream.send).type.not.toBeCallableWith({ event: 1 })
    expect(stream.sendAll(['hello', { data: 1 }])).type.toBe<Promise<number>>()
    expect(stream.sendAll).type.not.toBeCallableWith(42)
    expect(stream.lastEventId).type.toBe<string | undefined>()
    expect(stream.send).type.not.toBeCallableWith({ name: 'order' })
    expect<StreamMessage>().type.toBeAssignableFrom({})
  })

  test('ends with a reason', () => {
    expect(stream.close).type.toBeCallableWith()
    expect(stream.close).type.toBeCallableWith('stalled')
    expect(stream.close).type.not.toBeCallableWith('bored')
    stream.onClose(reason => { expect(reason).type.toBe<CloseReason>() })
  })
})

describe('the registry', () => {
  const registry = fastify.streamRegistry

  test('lists, gets and evicts', () => {
    expect(registry.size).type.toBe<number>()
    expect([...registry]).type.toBe<Array<Stream | Holder>>()
    expect(registry.get('ann', 'a')).type.toBe<Stream | Holder | undefined>()
    for (const holder of registry) if ('send' in holder) expect(holder).type.toBe<Stream>()
    expect(registry.evict('ann')).type.toBe<Promise<number>>()
  })

  test('sends to a scope, to a tab and to everybody', () => {
    expect(registry.send('ann', { event: 'order', data: 1 })).type.toBe<Promise<number>>()
    expect(registry.send).type.toBeCallableWith(['ann', 7], 'text', { tabId: 'a', name: 'chat', except: undefined })
    expect(registry.send).type.toBeCallableWith('ann', 'text', { tabId: undefined })
    expect(registry.send).type.not.toBeCallableWith('ann')
    expect(registry.send).type.not.toBeCallableWith(undefined, 'text')
    expect(registry.send).type.not.toBeCallableWith('ann', 42)
    expect(registry.send).type.not.toBeCallableWith('ann', 'text', { tabID: 'a' })
    expect(registry.send).type.not.toBeCallableWith('ann', 'text', { tabId: null })
    expect(registry.broadcast({ data: 1 })).type.toBe<Promise<number>>()
    expect(registry.broadcast).type.not.toBeCallableWith('text', { tabId: 'a' })
    expect(registry.to('ann', {} as SendOptions)).type.toBe<MessageTarget>()
    expect(registry.to('ann').send('text')).type.toBe<Promise<number>>()
  })

  test('tells which streams a scope has', () => {
    expect(registry.streams('ann')).type.toBe<Stream[]>()
    expect(registry.list('ann')).type.toBe<Promise<StreamInfo[]>>()
    expect<StreamInfo>().type.toBe<{ readonly id: string, readonly tabId: string | undefined, readonly name: string | undefined, readonly openedAt: number }>()
  })

  test('gives each request a tab id, which nobody may set', () => {
    fastify.post('/save', async request => {
      expect(request.tabId).type.toBe<string | undefined>()
      expect(registry.send).type.toBeCallableWith('ann', 'text', { tabId: request.tabId })
    })
    expect<FastifyRequest>().type.toBeAssignableTo<{ readonly tabId: string | undefined }>()
  })

  test('registers any holder', () => {
    const key = streamKey('ann', 'a', 'socket')
    expect(key).type.toBe<StreamKey>()
    const holder = { close (_reason: CloseReason) {}, gone: Promise.resolve() }
    expect(registry.replaceAndRegister).type.toBeCallableWith(key, holder)
    expect(registry.replaceAndRegister).type.not.toBeCallableWith(key, { gone: Promise.resolve() })
  })
})

describe('datastar', () => {
  test('takes a stream, or the streams that the registry names', () => {
    expect(datastar({} as Stream)).type.toBe<DatastarStream>()
    expect(datastar({} as Stream).patchElements('<p>')).type.toBe<Promise<void>>()
    expect(datastar(fastify.streamRegistry.to('ann'))).type.toBe<DatastarTarget>()
    expect(datastar(fastify.streamRegistry.to('ann')).patchSignals('{}')).type.toBe<Promise<number>>()
    expect(datastar({} as Stream)).type.toHaveProperty('close')
    expect(datastar(fastify.streamRegistry.to('ann'))).type.not.toHaveProperty('close')
    expect(datastar).type.not.toBeCallableWith({})
  })
})

describe('redisCluster', () => {
  test('takes each kind of client of ioredis and iovalkey', () => {
    for (const redis of [new Redis(), new Redis({ sentinels: [], name: 'm' }), new Cluster([]), new Redis5(), new Cluster5([]), new Valkey(), new ValkeyCluster([])]) {
      expect(redisCluster).type.toBeCallableWith({ redis })
    }
    expect(redisCluster).type.toBeCallableWith({ redis: {} as FastifyRedis })
  })

  test('takes each kind of client of redis, with any type mapping', () => {
    const commandOptions = { typeMapping: { [nodeRedis.RESP_TYPES.BLOB_STRING]: Buffer } }
    expect(redisCluster).type.toBeCallableWith({ redis: nodeRedis.createClient() })
    expect(redisCluster).type.toBeCallableWith({ redis: nodeRedis.createClient({ RESP: 2, commandOptions }) })
    expect(redisCluster).type.toBeCallableWith({ redis: nodeRedis.createClient().withTypeMapping(commandOptions.typeMapping) })
    expect(redisCluster).type.toBeCallableWith({ redis: nodeRedis.createCluster({ rootNodes: [] }) })
    expect(redisCluster).type.toBeCallableWith({ redis: nodeRedis.createSentinel({ name: 'm', sentinelRootNodes: [] }) })
    expect(redisCluster).type.toBeCallableWith({ redis: nodeRedis.createClientPool() })
    expect(redisCluster).type.toBeCallableWith({ redis: nodeRedis5.createClient() })
    expect(redisCluster).type.toBeCallableWith({ redis: nodeRedis5.createCluster({ rootNodes: [] }) })
    expect(redisCluster).type.toBeCallableWith({ redis: nodeRedis5.createSentinel({ name: 'm', sentinelRootNodes: [] }) })
    expect(redisCluster).type.toBeCallableWith({ redis: nodeRedis5.createClientPool() })
  })

  test('takes no other client, and no unknown option', () => {
    expect(redisCluster).type.not.toBeCallableWith({})
    expect(redisCluster).type.not.toBeCallableWith({ redis: new Map<string, string>() })
    expect(redisCluster).type.not.toBeCallableWith({ redis: new Redis(), leese: 1 })
  })
})
