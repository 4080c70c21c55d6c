// Closes what a benchmark has started: servers, connections, a Redis.

/** Calls `task` with a function that takes a thing to close, and returns the thing. Closes all things, the newest first, when `task` is over. */
export async function closing (task) {
  const things = []
  const keep = thing => {
    things.push(thing)
    return thing
  }
  try {
    return await task(keep)
  } finally {
    for (const thing of things.reverse()) await thing.close()
  }
}
