// octa-star-streams/datastar: the methods of the official Datastar SDK, for a stream or for many streams.
import { ServerSentEventGenerator } from '@starfederation/datastar-sdk/abstractServerSentEventGenerator'
// The SDK declares its types for ES modules only, and the build of this file is a CommonJS module.
import type { ServerSentEventGenerator as SDK } from '@starfederation/datastar-sdk/abstractServerSentEventGenerator' with { 'resolution-mode': 'import' }
import type { FastifyRequest } from 'fastify'
import { readSignals as read } from './http/signals.ts'
import { ignoreIfNotAwaited } from './wait.ts'
import type { MessageTarget, Stream } from '../types/stream.ts'

type SendOptions = Parameters<SDK['send']>[2]

type Method = 'patchElements' | 'patchSignals' | 'removeElements' | 'removeSignals' | 'executeScript'
type Methods<Result> = { [M in Method]: (...args: Parameters<SDK[M]>) => Promise<Result> }

/** The SDK's methods, which resolve and reject like `stream.send`, and the stream's `close`. */
export type DatastarStream = Methods<void> & { close (): void }

/** The SDK's methods, which resolve to the number of streams that took the event, and reject like `streamRegistry.send`. */
export type DatastarTarget = Methods<number>

class Generator extends ServerSentEventGenerator<Promise<unknown>> {
  readonly #target: Stream | MessageTarget

  constructor (target: Stream | MessageTarget) {
    super()
    this.#target = target
  }

  protected override send (event: string, dataLines: string[], { eventId, retryDuration }: SendOptions = {}): Promise<unknown> {
    return this.#target.send({
      event,
      // Like the SDK, leave out falsy values, and a retry of 1000 ms, which is the client's default.
      ...eventId ? { id: eventId } : {},
      ...retryDuration && retryDuration !== 1000 ? { retry: retryDuration } : {},
      data: dataLines.flatMap(prefixEachLine).join('\n')
    })
  }

  override close (): void {
    if ('close' in this.#target) this.#target.close()
  }
}

/**
 * Wraps a stream in the SDK's methods, or the streams that `streamRegistry.to` names. A method that the SDK or `send`
 * refuses to carry out rejects.
 *
 * @example await datastar(stream).patchElements('<p id="time">now</p>')
 * @example await datastar(fastify.streamRegistry.to(user.id, { except: request.tabId })).patchElements('<p id="time">now</p>')
 */
export function datastar (stream: Stream): DatastarStream
export function datastar (target: MessageTarget): DatastarTarget
export function datastar (target: Stream | MessageTarget): DatastarStream | DatastarTarget {
  const generator = new Generator(target)
  // The SDK throws some errors before it returns, and writes out options that are undefined.
  const call = async (name: Method, args: unknown[]) => await (generator[name] as (...args: unknown[]) => Promise<any>).apply(generator, args.map(dropUndefined))
  const method = (name: Method) => (...args: unknown[]) => ignoreIfNotAwaited(call(name, args))
  return {
    patchElements: method('patchElements'),
    patchSignals: method('patchSignals'),
    removeElements: method('removeElements'),
    removeSignals: method('removeSignals'),
    executeScript: method('executeScript'),
    ...'close' in target ? { close: () => generator.close() } : {}
  }
}

function dropUndefined (value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  return Object.fromEntries(Object.entries(value).filter(([, item]) => item !== undefined))
}

/**
 * Returns the signals that the client sent with a request, after Fastify has parsed the body, or `{}` if the client sent none.
 *
 * @throws FST_ERR_OCTA_STAR_SIGNALS
 * @example const { query } = readSignals<{ query: string }>(request)
 */
export function readSignals<T extends object = Record<string, unknown>> (request: FastifyRequest): T {
  return (read(request) ?? {}) as T
}

// The SDK makes a data line such as `elements ...` from each line that ends with LF. A CR ends a line too, alone or before
// LF. The text after a CR needs the same first word. Without that word, Datastar would take the text's first word for the
// name of an option.
function prefixEachLine (dataLine: string, index: number, dataLines: string[]): string[] {
  const word = dataLine.slice(0, dataLine.indexOf(' ') + 1)
  const text = dataLine.slice(word.length)
  // If the next data line has the same first word, the SDK split at an LF, and a CR before that LF is part of the line end.
  const line = dataLines[index + 1]?.startsWith(word) ? text.replace(/\r$/, '') : text
  return line.split('\r').map(rest => word + rest)
}
