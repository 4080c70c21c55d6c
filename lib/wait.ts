// Waiting: for a promise, but not for ever; for a promise that somebody else settles.

/** Whether `promise` settled within `milliseconds`. Rejects if it does so in time. Leaves no timer behind. */
export async function within (promise: Promise<unknown>, milliseconds: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<boolean>(resolve => { timer = setTimeout(resolve, milliseconds, false) })
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
    const timer = setTimeout(() => {
      late()
      resolve()
    }, until - performance.now())
    whenOver(() => {
      clearTimeout(timer)
      resolve()
    })
  })
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
