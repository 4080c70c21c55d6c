// One event to each stream there is, and how long it took until the last `send` had resolved.
export function broadcasting (streams) {
  return async (number) => {
    // Making the list is not what is measured.
    const list = streams()
    const message = { event: 'tick', data: { number, text: 'what a page shows' } }
    const start = performance.now()
    await Promise.all(list.map(stream => stream.send(message)))
    return performance.now() - start
  }
}
