// Waiting for a promise, but not for ever.

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
