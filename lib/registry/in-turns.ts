// Visits many items without holding up the event loop.

/** After so long the event loop gets to do other work. Unit: milliseconds. */
const TURN_MS = 2
/** So many items are always visited in one turn, so that a small scope ends in the turn of the call, however slow the machine is. */
const CHUNK = 100

/** Calls `visit` for each item, the first 100 items before this function returns. Resolves when all items have been visited. */
export async function inTurns<T> (items: readonly T[], visit: (item: T) => void): Promise<void> {
  let turnEnds = performance.now() + TURN_MS
  for (let index = 0; index < items.length; index++) {
    if (index % CHUNK === 0 && performance.now() >= turnEnds) {
      await new Promise(resolve => setImmediate(resolve))
      turnEnds = performance.now() + TURN_MS
    }
    visit(items[index]!)
  }
}
