// Iterates over a source of messages until the source is done or the stream ends, and always closes the source.
import { Readable } from 'node:stream'
import { FST_ERR_OCTA_STAR_SEND_OPTION, FST_ERR_OCTA_STAR_SOURCE, show } from '../errors.ts'
import type { MessageSource, SendAllOptions, StreamMessage } from '../../types/stream.ts'

type Message = string | StreamMessage
type Iterates = AsyncIterator<Message> | Iterator<Message>

/**
 * Passes each message of `source` to `send`. Awaits `send` before taking the next message, or with `onSlowClient: 'end'` only before
 * resolving. Resolves to the number of messages. Rejects with the signal's reason as soon as `signal` aborts, even if the source
 * never yields again.
 *
 * @throws FST_ERR_OCTA_STAR_SOURCE, FST_ERR_OCTA_STAR_SEND_OPTION
 */
export async function sendEach (source: MessageSource, options: SendAllOptions | undefined, signal: AbortSignal, send: (message: Message) => Promise<void>): Promise<number> {
  const iterator = iterate(source)
  const waits = isWaiting(options)
  let sent = 0
  let sending: Promise<void> | undefined
  let isPending = false
  // True once the source is done or has failed. As with `for await`, the source has then closed itself, and `return` is not called.
  let isOver = false
  const next = async () => {
    isOver = true
    const result = await iterator.next()
    isOver = result.done === true
    return result
  }
  let rejectNext: ((reason: unknown) => void) | undefined
  let stopped: { readonly reason: unknown } | undefined
  const close = async () => { await iterator.return?.() }
  // A source that is quiet would keep the handler waiting, so the wait ends now. A quiet generator cleans up when it next yields.
  const stop = (reason: unknown) => {
    if (stopped !== undefined) return
    stopped = { reason }
    destroyReadable(source)
    if (isPending) close().catch(() => {})
    rejectNext?.(reason)
  }
  const onAbort = () => stop(signal.reason)
  if (signal.aborted) onAbort()
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    for (;;) {
      if (stopped !== undefined) throw stopped.reason
      isPending = true
      const { done, value } = await new Promise<IteratorResult<Message>>((resolve, reject) => {
        rejectNext = reject
        next().then(resolve, reject)
      }).finally(() => { isPending = stopped !== undefined })
      if (done === true) {
        await sending
        return sent
      }
      sending = send(value)
      if (waits) await sending
      else sending.catch(stop)
      sent++
    }
  } finally {
    signal.removeEventListener('abort', onAbort)
    // If the stream had ended before the first message, `return` does not reach the Readable.
    destroyReadable(source)
    // Suspended at a `yield`, the source can clean up at once, and the stream is not gone before that. As with `for await`, the reason why
    // the source is closed early hides an error of its cleanup.
    if (!isPending && !isOver) await close().catch(() => {})
  }
}

function destroyReadable (source: MessageSource): void {
  // Opening a file may fail after the stream has ended. Node's iterator listens to `error` only once the iteration has begun.
  if (source instanceof Readable) source.on('error', () => {}).destroy()
}

function iterate (source: MessageSource): Iterates {
  const { [Symbol.asyncIterator]: async, [Symbol.iterator]: sync } = Object(source)
  if (typeof source === 'string' || (typeof async !== 'function' && typeof sync !== 'function')) throw new FST_ERR_OCTA_STAR_SOURCE(show(source))
  // A subclass may have an iterator of its own.
  if (source instanceof ReadableStream && async === ReadableStream.prototype[Symbol.asyncIterator]) return iterateWebStream(source)
  return typeof async === 'function' ? async.call(source) : sync.call(source)
}

// The iterator of web streams ends only behind a pending read, so a quiet source would not be closed.
function iterateWebStream (source: ReadableStream<Message>): Iterates {
  const reader = source.getReader()
  return {
    async next () {
      const result = await reader.read()
      if (result.done) reader.releaseLock()
      return result as IteratorResult<Message>
    },
    async return () {
      const cancelled = reader.cancel()
      reader.releaseLock()
      await cancelled
      return { done: true, value: undefined }
    }
  }
}

function isWaiting (options: SendAllOptions | undefined): boolean {
  const { onSlowClient = 'wait', ...unknown } = options ?? {}
  const [misspelt] = Object.entries(unknown)
  if (misspelt !== undefined) throw new FST_ERR_OCTA_STAR_SEND_OPTION(misspelt[0], 'left out: the only option is onSlowClient', show(misspelt[1]))
  if (onSlowClient !== 'wait' && onSlowClient !== 'end') throw new FST_ERR_OCTA_STAR_SEND_OPTION('onSlowClient', "'wait' or 'end'", show(onSlowClient))
  return onSlowClient === 'wait'
}
