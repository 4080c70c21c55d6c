// A stream on a fake response, pending or open.
import { Connection } from '../../lib/connection.ts'
import { LiveStream } from '../../lib/stream.ts'
import { streamKey } from '../../lib/stream-key.ts'
import { FakeResponse } from './fake-response.ts'
import { memoryLog } from './memory-log.ts'

export interface FakeStream {
  stream: LiveStream
  response: FakeResponse
}

export function pendingStream ({ key = streamKey('ann', 'a'), log = memoryLog().log, closeGrace = 50 } = {}): FakeStream {
  const response = new FakeResponse()
  const stream = new LiveStream({ key, connection: new Connection(response.raw), closeGrace, log, route: 'GET /', refuse () {} })
  return { stream, response }
}

export async function openStream (): Promise<FakeStream> {
  const pending = pendingStream()
  await pending.stream.start(Promise.resolve(), pending.response.sse)
  return pending
}
