// How late a server's event loop is, as commands for its parent.
import { monitorEventLoopDelay } from 'node:perf_hooks'

export function delayCommands () {
  const delay = monitorEventLoopDelay({ resolution: 1 })
  return {
    watchDelay () {
      delay.reset()
      delay.enable()
    },
    // It is the time between two ticks of a timer of a millisecond: what is over that is the delay.
    delay () {
      delay.disable()
      return { p99: delay.percentile(99) / 1e6 - 1, max: delay.max / 1e6 - 1 }
    }
  }
}
