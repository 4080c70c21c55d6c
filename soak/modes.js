// How handlers use a stream: some behave well, and some do not.
import { on, once } from 'node:events'
import { setImmediate as turn, setTimeout as pause } from 'node:timers/promises'

const BLOCK = 'x'.repeat(64 * 1024)
// More than the kernel buffers for a socket, on both ends of the connection.
const BLOCKS = 400

/** Each mode is given the stream, the application's events, functions that send a numbered event and register a cleanup, and how long to take. */
export const modes = {
  subscribes,
  async loops ({ stream, bus, send }) {
    for await (const [news] of on(bus, 'news', { signal: stream.signal })) await send(news)
  },
  async finishes ({ send, hold }) {
    await send('one')
    await pause(hold)
    await send('two')
  },
  async throws ({ send, hold }) {
    await send('one')
    await pause(hold)
    throw new Error('deliberate: in its handler')
  },
  async 'ignores its signal' ({ stream, bus, send, hold }) {
    const forward = news => send(news)
    bus.on('news', forward)
    if (!stream.signal.aborted) await once(stream.signal, 'abort')
    await pause(hold)
    bus.off('news', forward)
  },
  'cleans up slowly' (context) {
    subscribes(context)
    context.clean(() => pause(context.hold))
  },
  'fails to clean up' (context) {
    subscribes(context)
    context.clean(async () => {
      await pause(context.hold)
      throw new Error('deliberate: in its cleanup')
    })
    context.clean(() => { throw new Error('deliberate: in its cleanup') })
  },
  'has a last word' (context) {
    subscribes(context)
    context.stream.onReplaced(context.lastWord)
  },
  /** Sends faster than any client reads, and awaits nothing. */
  async floods (context) {
    subscribes(context)
    for (let i = 0; i < BLOCKS && !context.stream.closing; i++) {
      context.send(BLOCK)
      if (i % 4 === 3) await turn()
    }
  },
  /** Sends as fast as the client reads. */
  async pours (context) {
    subscribes(context)
    for (let i = 0; i < BLOCKS; i++) await context.send(BLOCK)
  },
  /** An amount that a client that reads takes easily. */
  async 'sends much' (context) {
    subscribes(context)
    for (let i = 0; i < 20; i++) await context.send(BLOCK)
  }
}

function subscribes ({ stream, bus, send, clean }) {
  const forward = news => send(news)
  bus.on('news', forward)
  clean(() => bus.off('news', forward))
  stream.keepAlive()
}
