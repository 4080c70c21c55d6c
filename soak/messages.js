// The messages that the processes send to streams of all processes. Each message contains a number and the audience.
import { clock, CROWDED, CROWDED_TABS, SCOPES, TABS_PER_SCOPE, WITHOUT_TAB } from './settings.js'

/** How often a process sends a few messages to a scope or to everybody, and asks for the list of the scope's streams. Unit: milliseconds. */
const SEND_MS = 200
/** At most this many messages are sent in a turn, so that many are under way together. */
const BURST = 4
const EVERYBODY = '*'

/** The audiences of messages, and the weight of each choice. */
const AUDIENCES = { scope: 4, tab: 3, name: 1, 'tab and name': 1, 'all but a tab': 3, nobody: 0.5, everybody: 0.6 }

const TARGETS = [
  ...Array.from({ length: SCOPES }, (_, i) => ({ scope: `scope${i}`, tabs: TABS_PER_SCOPE - 1 })),
  ...Array.from({ length: 3 }, () => ({ scope: CROWDED, tabs: CROWDED_TABS })),
  ...Array.from({ length: WITHOUT_TAB }, (_, i) => ({ scope: `guest${i}`, tabs: 1 }))
]

/** The messages of a sender to a scope are numbered from 1, and so are the sender's messages to everybody. */
export function laneOf ({ sender, scope = EVERYBODY }) {
  return `${sender} ${scope}`
}

/** Whether `message` is for the stream. Repeats the rules of README.md in code, because the soak does not trust the plugin here. */
export function isFor ({ scope, tabId, name, except, nobody = false }, stream) {
  if (nobody) return false
  if (scope === undefined) return true
  return scope === stream.scope && [undefined, stream.tabId].includes(tabId) && [undefined, stream.name].includes(name) && (except === undefined || except !== stream.tabId)
}

/**
 * Sends messages until the returned function is called. Reports each call before the call begins, and reports afterwards to what the call has resolved.
 * `lateness` is the lateness of this process.
 */
export function startSending ({ registry, sender, random, say, lateness }) {
  const numbers = new Map()
  let calls = 0

  async function call (word, run) {
    const id = `${sender} ${++calls}`
    const from = clock()
    say({ event: 'call', id, ...word })
    const result = await run()
    say({ event: 'result', id, result, late: lateness.between(from, clock()) })
  }

  function send (target) {
    const { scope, nobody, ...options } = audience(target)
    const lane = laneOf({ sender, scope })
    const number = (numbers.get(lane) ?? 0) + 1
    numbers.set(lane, number)
    const message = { sender, number, scope, nobody, ...options }
    const event = { event: 'm', data: message }
    call({ message }, () => {
      if (scope === undefined) return registry.broadcast(event)
      return registry.send(scope, event, nobody ? { tabId: undefined } : options)
    })
  }

  function audience ({ scope, tabs }) {
    const tabId = `tab${random.below(tabs)}`
    switch (random.weighted(AUDIENCES)) {
      case 'scope': return { scope }
      case 'tab': return { scope, tabId }
      case 'name': return { scope, name: 'side' }
      // A page with two streams: the last tab has the name.
      case 'tab and name': return { scope, tabId: `tab${tabs - 1}`, name: 'side' }
      case 'all but a tab': return { scope, except: tabId }
      case 'nobody': return { scope, nobody: true }
      case 'everybody': return {}
    }
  }

  const sending = setInterval(() => {
    const target = random.pick(TARGETS)
    for (let left = random.between(1, BURST); left > 0; left--) send(target)
    call({ listed: target.scope }, async () => (await registry.list(target.scope)).map(({ id, tabId, name }) => ({ id, tabId, name })))
  }, SEND_MS)
  return () => clearInterval(sending)
}
