// Sends events to each stream, and returns the processor time of the server until every client had the events.
import { setImmediate as turn } from 'node:timers/promises'

/** `send` sends an event to every stream. */
export function broadcasting (send) {
  let number = 0
  let start
  return {
    /** Sends `count` events, each in a separate turn of the event loop. */
    async broadcast (count) {
      start = process.cpuUsage()
      for (let i = 0; i < count; i++) {
        // Close to 1 KiB as JSON.
        const data = { number: ++number, name: 'what a page shows', rows: Array.from({ length: 20 }, (_, id) => ({ id, text: `the row with the number ${id}` })) }
        await send({ event: 'tick', data })
        await turn()
      }
    },
    /** Unit: seconds of a processor since the last `broadcast` began. */
    spent () {
      const { user, system } = process.cpuUsage(start)
      return (user + system) / 1e6
    }
  }
}
