// Counts what was done and what was lost, and keeps the history of each key. Without the history nobody could explain a loss.
import { Call } from './call.js'
import { clock } from './settings.js'

const LINES = 80

/** What must not be lost: each rule has a row in the summary. */
export const RULES = {
  events: 'events out of order, doubled, missing, or of another stream',
  messages: 'messages doubled, out of order, or at a stream that the messages were not for',
  unexplained: 'messages lost without a fault that explains the loss',
  results: 'sends and lists that did not resolve, or resolved to other streams than were open',
  presence: 'scopes reported online or offline that were not',
  cause: 'streams that ended without their cause',
  one: 'two streams of one key at a time',
  newest: 'keys whose newest stream was not left',
  farewell: 'farewells, and ends that the client saw differently',
  answers: 'requests with a wrong answer, or with none',
  bounded: 'starts that took longer than replaceTimeout',
  evicted: 'streams that outlived their eviction',
  slow: 'streams kept open for clients that do not read',
  limit: 'streams beyond maxStreamsPerScope',
  faults: 'unhandled errors, and lines in the log that nobody asked for',
  rest: 'things left behind when all had gone',
  memory: 'memory curves that rise',
  timers: 'seconds with more timers than the streams need'
}

export class Ledger {
  done = new Map()
  losses = new Map()
  /** The first loss of each rule, and the history that led to the loss. */
  firsts = new Map()
  /** Calls that are not settled yet, by id. */
  calls = new Map()
  asked = 0
  #phase
  #histories = new Map()
  #startedAt = clock()

  constructor (phase) {
    this.#phase = phase
  }

  did (what, times = 1) {
    this.done.set(what, (this.done.get(what) ?? 0) + times)
  }

  lost (rule, detail, key) {
    this.losses.set(rule, (this.losses.get(rule) ?? 0) + 1)
    this.note(key, `LOST (${rule}): ${detail}`)
    // A copy: later lines would push out the lines that led to the loss.
    if (!this.firsts.has(rule)) this.firsts.set(rule, { detail, key, history: this.#history(key) })
  }

  /** Adds a line to the history of a key, or of all keys if `key` is undefined. */
  note (key, text, at = clock()) {
    let lines = this.#histories.get(key)
    if (lines === undefined) this.#histories.set(key, lines = [])
    lines.push({ at, text })
    if (lines.length > LINES) lines.shift()
  }

  #history (key) {
    const lines = [...this.#histories.get(key) ?? [], ...key === undefined ? [] : (this.#histories.get(undefined) ?? []).map(({ at, text }) => ({ at, text: `(all) ${text}` }))]
    return lines.sort((a, b) => a.at - b.at).map(({ at, text }) => `${((at - this.#startedAt) / 1000).toFixed(3).padStart(9)}  ${text}`)
  }

  /** Sends a request of a tab, and follows the response. */
  ask ({ plan }, about, { path, ...request }) {
    const number = ++this.asked
    const id = `${this.#phase}-${number}`
    // Without a tab id, each stream has a separate key.
    const key = plan.key ?? id
    const call = Object.assign(new Call(id, { ...request, path: typeof path === 'function' ? path(id) : path }), { number, key, tabId: plan.tabId, name: plan.name, scope: plan.scope, ...about })
    this.calls.set(id, call)
    this.note(key, `${id} asks process ${call.process}: ${call.mode}${call.hold > 0 ? ` ${call.hold} ms` : ''}`)
    call.answered.then(status => this.note(key, `${id} is answered ${status}`))
    call.ended.then(ending => this.note(key, `${id} ended ${ending} after ${call.received}${call.left ? ', left' : ''}${call.pulled ? ', pulled' : ''}`))
    return call
  }
}
