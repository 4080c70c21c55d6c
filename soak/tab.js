// A virtual tab: takes the steps of a plan, against servers that may be down.
import http from 'node:http'
import { setTimeout as pause } from 'node:timers/promises'
import { clock, HEAL, LIMITS } from './settings.js'

/** How many times as long as a pause was late the next pause is extended, up to a most. Unit of the most: milliseconds. */
const PATIENCE = 10
const MOST_PATIENCE = 5_000

const MALFORMED = [
  { signals: '{"tabId":', status: 400 },
  { signals: '[]', status: 400 },
  { signals: '{"tabId":""}', status: 400 },
  { signals: `{"tabId":"${'x'.repeat(129)}"}`, status: 400 },
  { signals: '{"tabId":"a"}', headers: { accept: 'text/html' }, status: 406 }
]

export class Tab {
  #current
  #agent
  #late = 0

  constructor (plan, servers, ledger) {
    this.plan = plan
    this.servers = servers
    this.ledger = ledger
  }

  /** Takes the steps that are planned for `duration`, however long they take. */
  async doPlanned (duration, onProgress) {
    await pause(this.plan.firstPause)
    for (const step of this.plan.steps(duration)) {
      await this[step.action](step)
      await this.#pause(step.pause)
      onProgress()
    }
  }

  /** Takes further steps until `signal` aborts. */
  async goOn (signal) {
    for (const step of this.plan.steps(Infinity)) {
      if (signal.aborted) return
      await this[step.action](step)
      await this.#pause(step.pause, signal)
    }
  }

  /** Opens a stream, unless the tab has an open stream. */
  async reopen () {
    const [step] = this.plan.steps(1)
    await this.keep({ ...step, mode: 'subscribes' })
  }

  // The later the last pause ended, the longer is the next pause. Otherwise the tabs of a busy machine would keep the machine so
  // busy that something is always excused.
  async #pause (ms, signal) {
    const from = clock()
    const due = ms + Math.min(PATIENCE * this.#late, MOST_PATIENCE)
    await pause(due, undefined, { signal }).catch(() => {})
    this.#late = Math.max(0, clock() - from - due)
  }

  close () {
    this.#agent?.destroy()
    this.#current?.leave()
  }

  async navigate (step) {
    const previous = this.#current
    const opening = this.#open(step)
    previous?.leave()
    await opening
    this.ledger.did('navigated')
  }

  async reload (step) {
    this.#current?.leave()
    await pause(5)
    await this.#open(step)
    this.ledger.did('reloaded')
  }

  /** The stream before stays connected, as in a page that the browser keeps, and receives the farewell. */
  async replace (step) {
    await this.#open(step)
    this.ledger.did('opened beside the previous stream')
  }

  async race (step) {
    await Promise.all(Array.from({ length: step.racers }, async (_, i) => {
      await this.#open({ ...step, processes: [step.processes[i]] })
    }))
    this.ledger.did('raced')
  }

  async leave () {
    this.#current?.leave()
    this.ledger.did('left')
  }

  async 'pull the cable' (step) {
    await this.vanish(step)
    await pause(step.delay)
    await this.#open(step)
  }

  async vanish (step) {
    if (!this.#current?.open) await this.#open(step)
    const call = this.#current
    if (call?.open !== true) return
    call.pulledAt = clock()
    const { cable } = this.servers[call.process]
    const port = call.localPort
    cable.pullCable(port)
    // Closed once settled: a long soak would run out of file descriptors.
    call.drop = () => {
      cable.drop(port)
      call.leave()
    }
    this.#current = undefined
    this.ledger.did('pulled the cable')
  }

  async 'stop reading' (step) {
    this.#current?.leave()
    const { call, answered } = this.#call({ ...step, mode: step.flood }, { deaf: true })
    if (await answered !== 200) return
    call.pause()
    this.ledger.did(`stopped reading what ${step.flood}`)
    // A client that does not read cannot see the end, so wait until the server reports the end. After that time the client leaves, which counts as lost.
    for (const from = clock(); call.goneAt === undefined && call.diedAt === undefined && clock() - from < LIMITS.maxAge + HEAL;) await pause(100)
    call.resume()
    await Promise.race([call.ended, pause(5_000)])
    if (call.ending === undefined) call.leave()
  }

  async 'keep alive' (step) {
    const agent = this.#agent = new http.Agent({ keepAlive: true })
    this.#current?.leave()
    const first = await this.#open({ ...step, mode: 'finishes' }, { agent })
    await first.ended
    for (let i = 0; i < 2; i++) {
      const other = this.ledger.ask(this, { process: step.processes[0], mode: 'other', expects: 200 }, { path: '/other', agent, port: this.servers[step.processes[0]].frontPort })
      await other.ended
      if (other.reusedSocket) this.ledger.did('sent another request on a kept socket')
    }
    const second = await this.#open(step, { agent })
    if (second.reusedSocket) this.ledger.did('opened on a kept socket')
  }

  async malformed (step) {
    const { signals, headers, status } = MALFORMED[step.malformation]
    await this.#call(step, { signals, headers, expects: status }).answered
    this.ledger.did('sent nonsense')
  }

  async 'throw before' (step) {
    await this.#call({ ...step, mode: 'throws before' }, { expects: 500 }).answered
    this.ledger.did('met a handler that throws before starting its stream')
  }

  /** Is replaced, and reconnects with the farewell's id, as an EventSource does. */
  async 'come back' (step) {
    const loser = this.#current?.open === true ? this.#current : await this.#open(step)
    await this.#open(step)
    await Promise.race([loser.ended, pause(5_000)])
    if (loser.farewell === undefined) return
    await this.#call(step, { headers: { 'last-event-id': loser.farewell.id }, expects: 204 }).answered
    this.ledger.did('came back after the farewell')
  }

  async 'log out' (step) {
    const { scope } = this.plan
    const [process] = step.processes
    const call = this.ledger.ask(this, { process, mode: 'log out', expects: 200, scope }, { path: id => `/evict/${scope}?id=${id}`, method: 'POST', port: this.servers[process].frontPort })
    await call.answered
    this.ledger.did('logged out')
  }

  async keep (step) {
    if (!this.#current?.open) await this.#open(step)
  }

  async wait () {}

  async #open (step, options) {
    const { call, answered } = this.#call(step, options)
    if (await answered === 200 && (this.#current === undefined || call.number > this.#current.number)) this.#current = call
    return call
  }

  #call ({ processes: [process], method, mode, hold }, { signals, headers, agent, expects, deaf = false } = {}) {
    const { scope, tabId, name } = this.plan
    const server = this.servers[process]
    const text = signals ?? JSON.stringify({ tabId })
    const query = id => new URLSearchParams({ id, mode, hold, ...name === undefined ? {} : { name }, ...method === 'GET' ? { datastar: text } : {} })
    const call = this.ledger.ask(this, { process, mode, hold, expects }, {
      // Without the proxy, which would read for the client, the server notices sooner that the client does not read.
      port: deaf ? server.port : server.frontPort,
      path: id => `/stream/${scope}?${query(id)}`,
      method,
      headers,
      agent,
      body: method === 'POST' ? text : undefined
    })
    return { call, answered: call.answered }
  }
}
