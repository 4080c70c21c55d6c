// The plan, made from the seed and the minutes alone: the tabs, the steps of each tab, and the faults in their order.
import { derive } from './random.js'
import { CROWDED, CROWDED_TABS, SCOPES, TABS_PER_SCOPE, WITHOUT_TAB } from './settings.js'

/** The behaviours of handlers, and the weight of each mode. */
const MODES = {
  subscribes: 8,
  loops: 6,
  'has a last word': 2,
  finishes: 2,
  throws: 1,
  'sends much': 1,
  'ignores its signal': 2,
  'cleans up slowly': 2,
  'fails to clean up': 1
}
const SLOW = ['ignores its signal', 'cleans up slowly', 'fails to clean up']

/** The actions of tabs, and the weight of each action. `mean` is the mean pause between two steps. Unit: milliseconds. */
const BUSY = {
  mean: 2_000,
  actions: { navigate: 10, reload: 6, replace: 10, race: 3, leave: 4, 'pull the cable': 3, vanish: 1, 'stop reading': 0.5, 'keep alive': 4, malformed: 3, 'throw before': 1, 'come back': 4, 'log out': 0.3, wait: 4 }
}
const QUIET = { mean: 4_000, actions: { keep: 1 } }
// No stream here is slow to end, because the limit of streams per scope is checked.
const CROWD = { mean: 3_000, actions: { navigate: 8, reload: 4, replace: 4, leave: 3, 'pull the cable': 2 } }
const ANONYMOUS = { mean: 2_000, actions: { navigate: 4, replace: 4, leave: 2, vanish: 1, 'log out': 0.1 } }

export function planTabs (seed, phase, processes, replaceTimeout) {
  const tabs = []
  const add = (scope, tabId, name, habits) => {
    const number = tabs.length
    const random = derive(seed, `${phase} tab ${number}`)
    tabs.push({ number, scope, tabId, name, key: tabId === undefined ? undefined : `${scope} ${tabId} ${name ?? ''}`, firstPause: random.below(2_000), steps: duration => planSteps(random, habits, processes, replaceTimeout, duration) })
  }
  for (let s = 0; s < SCOPES; s++) {
    for (let i = 0; i < TABS_PER_SCOPE; i++) {
      // The last two tabs share a tab id: two streams of one page.
      add(`scope${s}`, `tab${Math.min(i, TABS_PER_SCOPE - 2)}`, i === TABS_PER_SCOPE - 1 ? 'side' : undefined, i === 0 ? QUIET : BUSY)
    }
  }
  for (let i = 0; i < CROWDED_TABS; i++) add(CROWDED, `tab${i}`, undefined, CROWD)
  // Nothing replaces the streams of these clients, so these streams fill their scopes too.
  for (let i = 0; i < WITHOUT_TAB; i++) add(`guest${i}`, undefined, undefined, ANONYMOUS)
  return tabs
}

/** Steps whose pauses add up to `duration`: the number of steps does not depend on the machine. A second call goes on where the first call stopped. */
function * planSteps (random, habits, processes, replaceTimeout, duration) {
  for (let paused = 0; paused < duration;) {
    const step = nextStep(random, habits, processes, replaceTimeout)
    paused += step.pause
    yield step
  }
}

// Draws every value, used or not, so that the draws of a step do not depend on the outcome of the step before.
function nextStep (random, { mean, actions }, processes, replaceTimeout) {
  const action = random.weighted(actions)
  const mode = actions === CROWD.actions ? random.pick(['subscribes', 'loops', 'has a last word']) : actions === QUIET.actions ? random.pick(['subscribes', 'loops']) : random.weighted(MODES)
  const past = random.below(4) === 0
  const hold = random.between(0, 300)
  return {
    action,
    mode,
    // A quarter of the streams that are slow to end is slower than `replaceTimeout`.
    hold: SLOW.includes(mode) && past ? Math.round(replaceTimeout * 1.4) + hold : hold,
    method: random.below(4) === 0 ? 'POST' : 'GET',
    processes: Array.from({ length: 6 }, () => random.below(processes)),
    racers: random.between(2, 6),
    delay: random.between(0, 800),
    malformation: random.below(5),
    flood: random.pick(['floods', 'pours']),
    pause: Math.round(random.wait(mean))
  }
}

export const FAULTS = ['kill', 'close', 'stop', 'lose', 'cut', 'empty']

/** Each round has every fault once. */
export function * planFaults (seed, rounds) {
  const random = derive(seed, 'faults')
  for (let round = 0; round < rounds; round++) {
    for (const fault of random.shuffle(FAULTS)) {
      yield {
        fault,
        // Spares the first process, whose memory is watched from beginning to end.
        victim: random.pick([1, 2]),
        anyone: random.below(3),
        lasts: random.between(300, 2_500),
        way: random.pick(['cut', 'cut all', 'freeze', 'cut subscribers', 'freeze subscribers', 'freeze commands']),
        message: random.pick(['end replaced', 'gone ', 'send '])
      }
    }
  }
}
