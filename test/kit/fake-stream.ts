// Makes a stream on a fake response, either pending or open.
import type { FastifyBaseLogger } from 'fastify'
import { defaults } from '../../lib/options.ts'
import { register } from '../../lib/start.ts'
import { LiveStream, type StreamOptions } from '../../lib/stream/stream.ts'
import type { Registry } from '../../lib/registry/registry.ts'
import { streamKey } from '../../lib/registry/stream-key.ts'
import type { StreamKey } from '../../types/index.ts'
import { FakeResponse } from './fake-response.ts'
import { memoryLog } from './memory-log.ts'

export interface FakeStream {
  stream: LiveStream
  response: FakeResponse
}

export interface PendingOptions extends Partial<StreamOptions> {
  key?: StreamKey
  log?: FastifyBaseLogger
}

export function pendingStream ({ key = streamKey('ann', 'a'), log = memoryLog().log, ...options }: PendingOptions = {}): FakeStream {
  const response = new FakeResponse()
  const stream = new LiveStream({ key, response: response.response, options: { ...defaults, closeGrace: 50, ...options }, log, route: 'GET /', lastEventId: undefined, sse: response.sse })
  return { stream, response }
}

export async function openStream (options: PendingOptions = {}): Promise<FakeStream> {
  const pending = pendingStream(options)
  const started = pending.stream.start()
  pending.stream.takeOver()
  pending.stream.open()
  await started
  pending.stream.isReceived = true
  return pending
}

/** Starts a pending stream as the plugin does after Fastify's hooks have run. Resolves when the stream is open. */
export async function startOn (registry: Registry, { stream, response }: FakeStream, key: StreamKey, order = registry.nextOrder()): Promise<void> {
  const started = stream.start()
  register(registry, { key, stream, response: response.response, order, retryAfter: {} })
  await started
  stream.isReceived = true
}
