// Collects the unhandled rejections of a test. Without a listener an unhandled rejection would end the process.
import type { Test } from 'tap'

export function watchUnhandled (t: Test): unknown[] {
  const unhandled: unknown[] = []
  const onUnhandled = (error: unknown) => { unhandled.push(error) }
  process.on('unhandledRejection', onUnhandled)
  t.teardown(() => process.off('unhandledRejection', onUnhandled))
  return unhandled
}
