// Waiting: for a promise, but not for ever; for a promise that somebody else settles.

/** Whether `promise` settled within `milliseconds`. Rejects if it does so in time. Leaves no timer behind. */
export async function within (promise: Promise<unknown>, milliseconds: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<boolean>(resolve => { timer = setTimeout(() => afterReading(() => resolve(false)), milliseconds) })
  try {
    return await Promise.race([promise.then(() => true), timeout])
  } finally {
    clearTimeout(timer)
  }
}

/**
 * Resolves when what it hands to `whenOver` is called, or else at `until`, when `late` has been called. Leaves no timer behind.
 * Unit: milliseconds of `performance.now()`.
 */
export function settled (whenOver: (over: () => void) => void, until: number, late: () => void): Promise<void> {
  return new Promise(resolve => {
    let isOver = false
    const timer = setTimeout(() => afterReading(() => {
      if (!isOver) late()
      resolve()
    }), until - performance.now())
    whenOver(() => {
      isOver = true
      clearTimeout(timer)
      resolve()
    })
  })
}

/**
 * Calls `callback` when what has come by now is read. After the process stood still, as for a long garbage collection, the
 * timers that are due come first, and what came meanwhile, in time, only then: https://nodejs.org/en/learn/asynchronous-work/event-loop-timers-and-nexttick
 */
export function afterReading (callback: () => void): void {
  setImmediate(callback)
}

export interface Deferred<T> {
  readonly promise: Promise<T>
  readonly resolve: (value: T) => void
}

/** `Promise.withResolvers`, which Node 20 does not have. */
export function deferred<T> (): Deferred<T> {
  let resolve!: (value: T) => void
  const promise = new Promise<T>(_resolve => { resolve = _resolve })
  return { promise, resolve }
}
