// Waiting: for a promise within a time limit, and for a promise that is settled from outside.

/** Resolves to `true` if `promise` resolves within `milliseconds`, else to `false`. Rejects if `promise` rejects in time. */
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
 * Calls `callback` after everything that has arrived by now was read. If the process stood still, for example during a long
 * garbage collection, libuv runs the due timers before reading what arrived in time:
 * https://docs.libuv.org/en/v1.x/design.html#the-i-o-loop
 */
export function afterReading (callback: () => void): void {
  setImmediate(callback)
}

/**
 * Returns `promise`, whose rejection does not end the process if nobody awaits the promise. An emitter calls `send` and awaits
 * nothing: an event may come between the end of a stream and the end of the subscription, or may not be serialisable.
 */
export function ignoreIfNotAwaited<T> (promise: Promise<T>): Promise<T> {
  promise.catch(() => {})
  return promise
}

export interface Deferred<T> {
  readonly promise: Promise<T>
  readonly resolve: (value: T | Promise<T>) => void
}

/** `Promise.withResolvers`, which Node 20 does not have. */
export function deferred<T> (): Deferred<T> {
  let resolve!: (value: T | Promise<T>) => void
  const promise = new Promise<T>(_resolve => { resolve = _resolve })
  return { promise, resolve }
}
