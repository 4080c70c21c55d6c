// Measures how late a server's event loop is, with commands for the parent process.
import { monitorEventLoopDelay } from 'node:perf_hooks'

export function delayCommands () {
  const delay = monitorEventLoopDelay({ resolution: 1 })
  return {
    watchDelay () {
      delay.reset()
      delay.enable()
    },
    // The histogram records the time between two ticks of a timer of a millisecond. Any time beyond that millisecond is the delay.
    delay () {
      delay.disable()
      return { p99: delay.percentile(99) / 1e6 - 1, max: delay.max / 1e6 - 1 }
    }
  }
}
