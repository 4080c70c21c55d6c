// Iterates over a source of messages until the source is done or the stream ends, and always closes the source.
import { Readable } from 'node:stream'
import { FST_ERR_OCTA_STAR_SOURCE, show } from '../errors.ts'
import type { MessageSource, StreamMessage } from '../../types/stream.ts'

type Message = string | StreamMessage
type Iterates = AsyncIterator<Message> | Iterator<Message>

/**
 * Passes each message of `source` to `send`, and awaits `send` before taking the next message. Resolves to the number of
 * messages. Rejects with the signal's reason as soon as `signal` aborts, even if the source never yields again.
 *
 * @throws FST_ERR_OCTA_STAR_SOURCE
 */
export async function sendEach (source: MessageSource, signal: AbortSignal, send: (message: Message) => Promise<void>): Promise<number> {
  const iterator = iterate(source)
  let sent = 0
  let isPending = false
  let rejectNext: ((reason: unknown) => void) | undefined
  const close = async () => { await iterator.return?.() }
  // A source that is quiet would keep the handler waiting, so the wait ends now. A quiet generator cleans up when it next yields.
  const onAbort = () => {
    if (source instanceof Readable) source.destroy()
    if (isPending) close().catch(() => {})
    rejectNext?.(signal.reason)
  }
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    for (;;) {
      signal.throwIfAborted()
      isPending = true
      const { done, value } = await new Promise<IteratorResult<Message>>((resolve, reject) => {
        rejectNext = reject
        Promise.resolve(iterator.next()).then(resolve, reject)
      }).finally(() => { isPending = signal.aborted })
      if (done === true) return sent
      await send(value)
      sent++
    }
  } finally {
    signal.removeEventListener('abort', onAbort)
    // If the stream had ended before the first message, `return` does not reach the Readable.
    if (source instanceof Readable) source.destroy()
    // Suspended at a `yield`, the source can clean up at once, and the stream is not gone before that.
    if (!isPending) await close()
  }
}

function iterate (source: MessageSource): Iterates {
  const { [Symbol.asyncIterator]: async, [Symbol.iterator]: sync } = Object(source)
  if (typeof source === 'string' || (typeof async !== 'function' && typeof sync !== 'function')) throw new FST_ERR_OCTA_STAR_SOURCE(show(source))
  return typeof async === 'function' ? async.call(source) : sync.call(source)
}
