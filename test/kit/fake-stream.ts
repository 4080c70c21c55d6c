// Makes a stream on a fake response, either pending or open.
import type { FastifyBaseLogger } from 'fastify'
import { StreamResponse } from '../../lib/http/response.ts'
import { defaults } from '../../lib/options.ts'
import { LiveStream, type StreamOptions } from '../../lib/stream/stream.ts'
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
  const stream = new LiveStream({ key, response: new StreamResponse(response.raw), options: { ...defaults, closeGrace: 50, ...options }, log, route: 'GET /' }, () => {})
  return { stream, response }
}

export async function openStream (options: PendingOptions = {}): Promise<FakeStream> {
  const pending = pendingStream(options)
  await pending.stream.start(Promise.resolve(), pending.response.sse)
  return pending
}
