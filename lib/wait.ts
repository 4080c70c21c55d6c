// Waiting: for a promise within a time limit, until a deadline, and for a promise that is settled from outside.

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
 * Calls `subscribe` with a callback, and resolves when that callback is called. At the deadline, calls `onDeadline` and
 * resolves anyway. Unit of the deadline: milliseconds of `performance.now()`.
 */
export function untilDeadline (subscribe: (callback: () => void) => void, deadline: number, onDeadline: () => void): Promise<void> {
  return new Promise(resolve => {
    let isDone = false
    const timer = setTimeout(() => afterReading(() => {
      if (!isDone) onDeadline()
      resolve()
    }), deadline - performance.now())
    subscribe(() => {
      isDone = true
      clearTimeout(timer)
      resolve()
    })
  })
}

/**
 * Calls `callback` after everything that has arrived by now was read. If the process stood still, for example during a long
 * garbage collection, libuv runs the due timers before reading what arrived in time:
 * https://docs.libuv.org/en/v1.x/design.html#the-i-o-loop
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
