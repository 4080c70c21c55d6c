// The clients of very many streams, in a separate process.
import { clientOf } from '../kit/limits.js'
import { serve } from '../kit/processes.js'
import { Tabs } from '../kit/tabs.js'

let tabs
serve(0, {
  async open ({ port, count, atOnce, transport }) {
    tabs = await Tabs.open(await clientOf(transport).connect(port, count + atOnce), atOnce)
  },
  replaceAll: () => tabs.replaceAll(),
  countEvents: () => tabs.countEvents(),
  lostAndDoubled: () => tabs.lostAndDoubled()
})
