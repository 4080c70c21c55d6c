// All rules at once: random schedules of starts, ends and faults, checked after every step against a model of the rules.
import { setImmediate as flush } from 'node:timers/promises'
import FakeTimers, { type Clock } from '@sinonjs/fake-timers'
import fc from 'fast-check'
import t from 'tap'
import { FST_ERR_OCTA_STAR_LIMIT } from '../../lib/errors.ts'
import { defaults } from '../../lib/options.ts'
import { Registry } from '../../lib/registry/registry.ts'
import { register } from '../../lib/start.ts'
import { LiveStream } from '../../lib/stream/stream.ts'
import { streamKey } from '../../lib/registry/stream-key.ts'
import type { CloseReason, StreamKey } from '../../types/index.ts'
import { FakeResponse } from '../kit/fake-response.ts'
import { memoryLog } from '../kit/memory-log.ts'
import { isQuickRun } from '../kit/programs.ts'
import { seeded } from '../kit/seed.ts'
import { watchUnhandled } from '../kit/unhandled.ts'

const SCHEDULES = isQuickRun ? 500 : 10_000
const REPLACE_TIMEOUT = 1_000
const CLOSE_GRACE = 200

type Cleanup = 'none' | 'fast' | 'slow' | 'fails' | 'throws' | 'hangs'
type Handler = 'obeys' | 'subscribes' | 'ignores' | 'finishes' | 'sends'
type Hook = 'none' | 'slow' | 'throws'
type LastWord = 'none' | 'speaks' | 'hangs'

interface Start { type: 'start', scope: number, tab: number | undefined, cleanup: Cleanup, handler: Handler, lastWord: LastWord, frozen: boolean, hook: Hook, late: boolean }
type Step = Start |
  { type: 'leave', nth: number } |
  { type: 'evict', scope: number, tab: number | undefined } |
  { type: 'tick', ms: number } |
  { type: 'shutdown' }

const scope = fc.nat(1)
const tab = fc.option(fc.nat(1), { nil: undefined, freq: 5 })
const start = fc.record({
  type: fc.constant('start' as const),
  scope,
  tab,
  cleanup: fc.constantFrom<Cleanup>('none', 'none', 'fast', 'slow', 'fails', 'throws', 'hangs'),
  handler: fc.constantFrom<Handler>('obeys', 'obeys', 'subscribes', 'subscribes', 'ignores', 'finishes', 'sends'),
  lastWord: fc.constantFrom<LastWord>('none', 'none', 'speaks', 'hangs'),
  frozen: fc.boolean(),
  hook: fc.constantFrom<Hook>('none', 'none', 'none', 'none', 'slow', 'throws'),
  late: fc.constantFrom(false, false, false, false, true)
})
const schedule = fc.array(fc.oneof(
  { arbitrary: start, weight: 8 },
  { arbitrary: fc.record({ type: fc.constant('leave' as const), nth: fc.nat(20) }), weight: 3 },
  { arbitrary: fc.record({ type: fc.constant('evict' as const), scope, tab }), weight: 1 },
  { arbitrary: fc.record({ type: fc.constant('tick' as const), ms: fc.constantFrom(0, 10, 100, 199, 200, 500, 999, 1_000, 2_000) }), weight: 6 },
  { arbitrary: fc.constant({ type: 'shutdown' as const }), weight: 1 }
), { minLength: 3, maxLength: 24, size: 'max' }) as fc.Arbitrary<Step[]>
const limits = fc.option(fc.record({ max: fc.integer({ min: 1, max: 3 }), onLimit: fc.constantFrom<'replace-oldest' | 'reject'>('replace-oldest', 'reject') }), { nil: undefined, freq: 2 })

/** A call of startStream, as seen from outside. */
interface Run {
  step: Start
  key: StreamKey
  stream: LiveStream
  response: FakeResponse
  calledAt: number
  settledAt: number | undefined
  opened: boolean
  handlerOver: boolean
  cleanupsOver: boolean
  rejected: boolean
  /** The position among the responses in the order in which they were handed over, and the time. */
  passed: number | undefined
  passedAt: number | undefined
  /** When the stream began to end. */
  endingAt: number | undefined
}

class World {
  now = 0
  shutdownAt: number | undefined
  readonly runs: Run[] = []
  readonly evictions: Array<{ scope: string, tabId: string | undefined, after: number, calledAt: number, settled: boolean }> = []
  readonly problems: string[] = []
  readonly log = memoryLog()
  readonly registry: Registry
  readonly limit: number
  readonly #clock: Clock
  #passed = 0

  constructor (clock: Clock, limit: { max: number, onLimit: 'replace-oldest' | 'reject' } | undefined) {
    this.#clock = clock
    this.limit = limit?.max ?? Infinity
    this.registry = new Registry({
      offlineDelay: 5_000,
      replaceTimeout: REPLACE_TIMEOUT,
      maxStreamsPerScope: this.limit,
      onLimit: limit?.onLimit ?? 'replace-oldest'
    }, this.log.log)
  }

  async tick (ms: number): Promise<void> {
    // Advances in small steps, and lets everything settle after each step, so that the model's clock is right when a stream opens.
    for (let left = ms; left > 0; left -= 50) {
      const by = Math.min(left, 50)
      this.now += by
      this.#clock.tick(by)
      await flush()
    }
  }

  start (step: Start): void {
    const key = streamKey(`scope ${step.scope}`, step.tab === undefined ? undefined : `tab ${step.tab}`)
    const response = new FakeResponse()
    response.frozen = step.frozen
    const run: Run = {
      step,
      key,
      response,
      calledAt: this.now,
      settledAt: undefined,
      opened: false,
      handlerOver: false,
      cleanupsOver: true,
      rejected: false,
      passed: undefined,
      passedAt: undefined,
      endingAt: undefined,
      stream: new LiveStream({ key, response: response.response, options: { ...defaults, closeGrace: CLOSE_GRACE }, log: this.log.log, route: 'GET /model', lastEventId: undefined, sse: response.sse })
    }
    this.runs.push(run)
    run.stream.signal.addEventListener('abort', () => { run.endingAt = this.now })
    this.#handle(run)
  }

  // Does what the plugin's wrapper does around a handler.
  async #handle (run: Run): Promise<void> {
    try {
      await this.#handler(run)
      run.handlerOver = true
      run.stream.handlerReturned()
    } catch (error) {
      run.handlerOver = true
      const normal = run.stream.handlerThrew(error)
      if (!normal && !run.rejected) this.problems.push(`the handler's rejection was taken for a fault: ${error}`)
    }
  }

  // Does what Fastify and the plugin do before a stream can be registered: onSend hooks run, and then the response is handed over.
  async #pass (run: Run, order: number): Promise<void> {
    const { key, stream, response, step } = run
    const started = stream.start()
    const handOver = () => {
      if (step.hook === 'throws') {
        // Fastify replies with an error, and never hands the response over.
        response.headersSent = true
        response.end()
        return
      }
      // A request whose client has already disconnected, which the kernel has not reported yet.
      if (step.late) {
        response.sever()
        setTimeout(() => response.leave(), 10)
      }
      if (!stream.closing) {
        run.passed = ++this.#passed
        run.passedAt = this.now
      }
      register(this.registry, { key, stream, response: response.response, order, retryAfter: {} })
    }
    if (step.hook === 'none') handOver()
    else setTimeout(handOver, 120)
    await started
    if (stream.closing) throw stream.closedError()
  }

  async #handler (run: Run): Promise<void> {
    const { stream, step } = run
    const order = this.registry.nextOrder()
    try {
      await this.#pass(run, order)
    } catch (error) {
      run.rejected = error instanceof FST_ERR_OCTA_STAR_LIMIT
      throw error
    } finally {
      run.settledAt = this.now
    }
    run.opened = true
    stream.isReceived = true
    this.#checkOpening(run)
    if (step.lastWord === 'speaks') stream.onReplaced(() => stream.send('a last word'))
    if (step.lastWord === 'hangs') stream.onReplaced(() => new Promise(() => {}))
    if (step.cleanup !== 'none') {
      run.cleanupsOver = false
      stream.onClose(async () => {
        if (step.cleanup === 'throws') { run.cleanupsOver = true; throw new Error('cleanup') }
        await new Promise(resolve => { if (step.cleanup !== 'hangs') setTimeout(resolve, step.cleanup === 'slow' ? 300 : 10) })
        run.cleanupsOver = true
        if (step.cleanup === 'fails') throw new Error('cleanup')
      })
    }
    const aborted = new Promise<never>((_resolve, reject) => stream.signal.addEventListener('abort', () => reject(stream.signal.reason)))
    switch (step.handler) {
      case 'subscribes': aborted.catch(() => {}); return stream.keepAlive()
      case 'ignores': aborted.catch(() => {}); return new Promise(() => {})
      case 'finishes': await Promise.race([aborted, new Promise(resolve => setTimeout(resolve, 150))]); return
      case 'sends': aborted.catch(() => {}); for (;;) { await stream.send('tick'); await new Promise(resolve => setTimeout(resolve, 100)) }
      default: return aborted
    }
  }

  isOver (run: Run): boolean {
    return run.handlerOver && run.cleanupsOver && (run.response.destroyed || (run.response.ended && !run.response.frozen))
  }

  // Rules 1, 5 and 3: when a stream opens, the earlier streams on its key are over, or the stream has waited long enough.
  #checkOpening (run: Run): void {
    for (const older of this.runs.slice(0, this.runs.indexOf(run))) {
      if (!older.opened || !sameKey(older.key, run.key)) continue
      const waitedLongEnough = older.endingAt !== undefined && this.now - older.endingAt >= REPLACE_TIMEOUT
      if (!older.stream.signal.aborted) this.problems.push('rule 5: a stream opened before its predecessor was told to end')
      if (!this.isOver(older) && !waitedLongEnough) this.problems.push('rules 1, 5: a stream opened before its predecessor was over')
      if (waitedLongEnough && !older.response.destroyed && !older.response.ended) this.problems.push('rule 3: the socket of a stream that hangs was not destroyed')
    }
  }

  check (settled: boolean): string[] {
    for (const [index, run] of this.runs.entries()) {
      const { stream, key, response } = run
      const live = run.opened && !stream.closing
      const successors = this.runs.slice(index + 1).filter(other => sameKey(other.key, key) && !other.rejected && !other.step.late && other.passed !== undefined)
      // A successor whose client left before the successor was registered ends nobody.
      const registered = successors.filter(other => other.response.headersSent || this.#reason(other) !== 'disconnected')
      if (settled && live && registered.some(other => other.passed! > run.passed! || !other.stream.closing)) this.problems.push('rule 2: a stream goes on although a newer stream was started')
      // A request may wait for two turns of the event loop before it is registered, and time goes by in steps of 50 ms.
      if (run.settledAt === undefined && run.passedAt !== undefined && this.now > run.passedAt + REPLACE_TIMEOUT + 100) this.problems.push('rule 3: a start has not settled within replaceTimeout')
      if (live && this.shutdownAt !== undefined) this.problems.push('a stream goes on after the shutdown')
      const reason = this.#reason(run)
      if (reason === 'replaced' && successors.length === 0) this.problems.push('rules 2, 6: a stream was replaced without a successor on its key')
      if (reason === 'replaced' && key.tabId === undefined) this.problems.push('rule 7: a stream without a tab id was replaced')
      if (reason === 'evicted' && this.limit === Infinity && !this.#wasEvicted(run, index)) this.problems.push('rule 6: a stream was evicted although no eviction named the stream')
      // The stream may have opened and ended before its handler continued.
      const hadHead = response.headersSent && response.status === undefined
      if (!hadHead && !run.step.late && run.passed !== undefined && (run.response.status === 204) !== (reason === 'replaced' || reason === 'evicted')) this.problems.push('a superseded request was not answered once, or another request was answered')
      if (!hadHead && run.passed !== undefined && reason === 'shutdown' && !response.destroyed) this.problems.push('a request that waited at the shutdown was left open')
      if (run.opened) this.#checkEnding(run, reason)
      if (settled && stream.closing && !run.handlerOver && (run.step.handler === 'obeys' || (run.step.handler === 'sends' && run.step.frozen))) {
        this.problems.push('a handler that looks at its signal, or waits for a peer that does not read, was not stopped at once')
      }
    }
    for (const eviction of this.evictions) {
      if (!eviction.settled && this.now > eviction.calledAt + REPLACE_TIMEOUT) this.problems.push('an eviction has not settled within replaceTimeout')
    }
    if (this.limit !== Infinity) {
      for (const scope of new Set(this.runs.map(run => run.key.scope))) {
        const live = this.runs.filter(run => run.key.scope === scope && run.opened && !run.stream.closing)
        if (live.length > this.limit) this.problems.push(`a scope has ${live.length} live streams, the limit is ${this.limit}`)
      }
    }
    const listed = [...this.registry]
    for (const run of this.runs) {
      const isGivenUp = run.endingAt !== undefined && this.now >= run.endingAt + REPLACE_TIMEOUT
      if (run.opened && !this.isOver(run) && !isGivenUp && !listed.includes(run.stream)) this.problems.push('rules 4, 7: a stream that is not over is not listed')
      if (settled && isGivenUp && listed.includes(run.stream)) this.problems.push('rule 3: a stream that was given up is still listed')
      if (!run.response.headersSent && listed.includes(run.stream)) this.problems.push('a stream that is not open is listed')
      if (settled && this.isOver(run) && run.stream.closing && listed.includes(run.stream)) this.problems.push('rule 4: a stream that is over is still listed')
    }
    return this.problems
  }

  #checkEnding (run: Run, reason: CloseReason | undefined): void {
    const { response } = run
    // The last word and the end have a grace period each. A peer that takes nothing gets no second grace period.
    const graces = run.step.lastWord === 'hangs' && !(run.step.frozen && run.step.handler === 'sends') ? 2 : 1
    if (this.now > run.endingAt! + graces * CLOSE_GRACE + 50 && !response.destroyed && !(response.ended && !response.frozen)) {
      this.problems.push('a response is not over after closeGrace')
    }
    const farewell = response.written.includes('event: octa-star-closed')
    if (farewell && reason !== 'replaced' && reason !== 'evicted') this.problems.push(`a farewell after ${reason}`)
    if (response.ended && !response.destroyed && (reason === 'replaced' || reason === 'evicted') && !farewell) this.problems.push(`no farewell after ${reason}`)
    if ((reason === 'shutdown' || reason === 'failed') && !response.destroyed) this.problems.push(`not destroyed after ${reason}`)
  }

  #reason ({ stream }: Run): CloseReason | undefined {
    return stream.closing ? (stream.signal.reason as { reason: CloseReason }).reason : undefined
  }

  #wasEvicted (run: Run, index: number): boolean {
    return this.evictions.some(({ scope, tabId, after }) => scope === run.key.scope && (tabId === undefined || tabId === run.key.tabId) && index < after)
  }

  async run (steps: Step[]): Promise<string[]> {
    for (const step of steps) {
      if (this.shutdownAt !== undefined && step.type === 'shutdown') continue
      switch (step.type) {
        case 'start': this.start(step); break
        case 'leave': this.runs.at(step.nth % Math.max(1, this.runs.length))?.response.leave(); break
        case 'tick': await this.tick(step.ms); break
        case 'shutdown':
          this.shutdownAt = this.now
          this.registry.close(REPLACE_TIMEOUT)
          break
        case 'evict': {
          const [scopeKey, tabId] = [`scope ${step.scope}`, step.tab === undefined ? undefined : `tab ${step.tab}`]
          const eviction = { scope: JSON.stringify(scopeKey), tabId, after: this.runs.length, calledAt: this.now, settled: false }
          this.evictions.push(eviction)
          this.registry.evict(scopeKey, tabId).then(() => { eviction.settled = true })
        }
      }
      // Half of the time all pending work settles before the next step. Otherwise the steps race.
      const settled = step.type !== 'start' || step.scope === 0
      if (settled) for (let i = 0; i < 4; i++) await flush()
      if (this.check(settled).length > 0) return this.problems
    }
    return this.#end()
  }

  async #end (): Promise<string[]> {
    await this.tick(3_000)
    this.check(true)
    // Rule 2, at rest: the newest stream of each key is left, unless something else than a newer stream ended that stream.
    for (const run of this.runs.filter(run => run.opened && this.#reason(run) === 'replaced' && !this.runs.some(other => other.passed! > run.passed! && sameKey(other.key, run.key)))) {
      this.problems.push(`rule 2: the newest stream of ${run.key.slot} was replaced`)
    }
    if (this.shutdownAt === undefined) {
      const closed = this.registry.close(REPLACE_TIMEOUT)
      await this.tick(REPLACE_TIMEOUT)
      await closed
    }
    const hanging = this.runs.filter(run => run.opened && !this.isOver(run))
    await flush()
    if (this.registry.givenUp !== hanging.length) this.problems.push(`rule 3: ${this.registry.givenUp} given up at the end, ${hanging.length} hang`)
    if (this.registry.size > 0 || await this.registry.count('scope 0') + await this.registry.count('scope 1') > 0) this.problems.push('rule 4: the registry is not empty at the end')
    const warned = this.log.lines.filter(({ message }) => message.includes('did not end within replaceTimeout'))
    for (const { stream } of this.runs) {
      const times = warned.filter(({ level, details }) => level === 'warn' && details.streamId === stream.id).length
      const hangs = hanging.some(run => run.stream === stream)
      if (times > 1 || (hangs && times === 0)) this.problems.push(`rule 3: a stream was given up with ${times} warnings`)
    }
    const errors = this.log.lines.filter(({ level }) => level === 'error')
    if (errors.length > 0) this.problems.push('an error was logged')
    return this.problems
  }
}

function sameKey (a: StreamKey, b: StreamKey): boolean {
  return a.scope === b.scope && a.slot === b.slot
}

// Stops only a test that hangs: a schedule takes a few milliseconds.
t.setTimeout(300_000 + SCHEDULES * 100)

t.test(`rules 1 to 7 hold in ${SCHEDULES} schedules of starts, aborts, cleanups of every kind, evictions and shutdowns`, async t => {
  const unhandled = watchUnhandled(t)
  let starts = 0
  let opened = 0

  await fc.assert(fc.asyncProperty(schedule, limits, async (steps, limit) => {
    const clock = FakeTimers.install({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
    try {
      const world = new World(clock, limit)
      const problems = await world.run(steps)
      starts += world.runs.length
      opened += world.runs.filter(run => run.opened).length
      if (problems.length > 0) throw new Error(problems.join('; '))
    } finally {
      clock.uninstall()
    }
  }), { ...seeded(import.meta.url), numRuns: SCHEDULES })

  await flush()
  t.strictSame(unhandled, [], 'no unhandled rejection')
  t.comment(`${starts} starts, ${opened} opened`)
  t.ok(opened > SCHEDULES, 'the schedules opened streams')
})
