// Starts a stream whose response Fastify has handed over: checks that the client is still there, and registers the stream.
import type { StreamResponse } from './http/response.ts'
import type { Registry } from './registry/registry.ts'
import type { LiveStream } from './stream/stream.ts'
import type { StreamKey } from '../types/stream.ts'

export interface Start {
  readonly key: StreamKey
  readonly stream: LiveStream
  readonly response: StreamResponse
  /** The place of this start among all calls of `startStream` and `replaceAndRegister`, see `Registry.nextOrder`. */
  readonly order: number
  /** The headers of a response that says that the scope is full. */
  readonly retryAfter: Record<string, string>
}

/** If the stream cannot start, the promise of `stream.start` rejects. */
export function register (registry: Registry, start: Start): void {
  if (!start.stream.takeOver()) return
  // A request whose client has disconnected must not end a holder. A start that ends nobody does not wait.
  if (registry.wouldEndHolder(start.key)) registerIfConnected(registry, start)
  else enter(registry, start)
}

async function registerIfConnected (registry: Registry, start: Start): Promise<void> {
  const { stream, response } = start
  await twoTurns()
  if (response.isDisconnected) stream.close('disconnected')
  if (!stream.closing) enter(registry, start)
}

function enter (registry: Registry, { key, stream, order, retryAfter }: Start): void {
  try {
    const holds = registry.register(key, stream, order)
    if (typeof holds === 'object') holds.catch(error => stream.refuse(error, retryAfter))
  } catch (error) {
    stream.refuse(error as Error, retryAfter)
  }
}

// A FIN or RST that came right behind the request is read in the next poll phase of the event loop. The second setImmediate
// runs after that: https://nodejs.org/en/learn/asynchronous-work/event-loop-timers-and-nexttick
function twoTurns (): Promise<void> {
  return new Promise(resolve => setImmediate(setImmediate, resolve))
}
