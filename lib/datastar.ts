// octa-star-streams/datastar: the official SDK's methods on a stream.
import { ServerSentEventGenerator } from '@starfederation/datastar-sdk/abstractServerSentEventGenerator'
import type { FastifyRequest } from 'fastify'
import { readSignals as read } from './signals.ts'
import type { Stream } from '../types/index.ts'

type SendOptions = Parameters<ServerSentEventGenerator['send']>[2]

/** The SDK's methods, each of which resolves as `stream.send` does; and `close`, which is the stream's. */
export type DatastarStream = { close (): void } & {
  [Method in 'patchElements' | 'patchSignals' | 'removeElements' | 'removeSignals' | 'executeScript']:
  (...args: Parameters<ServerSentEventGenerator[Method]>) => Promise<void>
}

class StreamGenerator extends ServerSentEventGenerator<Promise<void>> {
  readonly #stream: Stream

  constructor (stream: Stream) {
    super()
    this.#stream = stream
  }

  protected override send (event: string, dataLines: string[], { eventId, retryDuration }: SendOptions = {}): Promise<void> {
    return this.#stream.send({
      event,
      // Falsy ones, and a retry of a second, which is the client's default, are left out, as the SDK leaves them out.
      ...eventId ? { id: eventId } : {},
      ...retryDuration && retryDuration !== 1000 ? { retry: retryDuration } : {},
      data: dataLines.flatMap(prefixEachLine).join('\n')
    })
  }

  close (): void {
    this.#stream.close()
  }
}

/**
 * Datastar's events on a stream.
 *
 * @example await datastar(stream).patchElements('<p id="time">now</p>')
 */
export function datastar (stream: Stream): DatastarStream {
  // The SDK's own declarations have its methods return what its own `send` may return as well: an array.
  return new StreamGenerator(stream) as unknown as DatastarStream
}

/**
 * The signals that the client sent with a request, after Fastify has parsed its body; `{}` if it sent none.
 *
 * @throws FST_ERR_OCTA_STAR_SIGNALS
 */
export function readSignals<T extends object = Record<string, unknown>> (request: FastifyRequest): T {
  return (read(request) ?? {}) as T
}

// The SDK makes a data line, `elements ...`, of each line that LF ends. CR ends a line too, alone or before LF, and what
// follows it needs the same first word: else Datastar takes its own first word for the name of an option.
function prefixEachLine (dataLine: string, index: number, dataLines: string[]): string[] {
  const word = dataLine.slice(0, dataLine.indexOf(' ') + 1)
  const text = dataLine.slice(word.length)
  // Where the same word follows, the SDK has split at an LF, and a CR before it is no line end of its own.
  const line = dataLines[index + 1]?.startsWith(word) ? text.replace(/\r$/, '') : text
  return line.split('\r').map(rest => word + rest)
}
