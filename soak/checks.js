// Compares what the servers report about their streams with what the clients saw, word by word, in the order of a common clock.
import { hasCause } from './causes.js'
import { Deliveries } from './deliveries.js'
import { Presence } from './presence.js'
import { clock, CONCURRENT, CROWDED, HEAL, LIMITS, SLACK } from './settings.js'

/** How long words are kept back, so that the words of all processes come in order. Unit: milliseconds. */
const DELAY = 2_000
/** How many timers may keep a process alive: so many for each live stream, and so many for all else, such as streams that were given up. */
const TIMERS = { each: 3, plus: 200 }
/** The name under which the ledger counts the keys that came to rest. */
export const AT_REST = 'keys looked at, at rest'
const WARNINGS = [/use the same tab id/, /^Redis (node \S+ )?is away/, /^another process did not end a stream within replaceTimeout/, /^this process receives no messages of Redis/]

export class Checks {
  #ledger
  #servers
  #excuses
  #replaceTimeout
  #across
  #words = []
  #byStreamId = new Map()
  /** By key: the calls that have started, the older first. */
  #keys = new Map()
  #evictions = new Map()
  deliveries
  presence
  samples = []
  /** When the newest of the streams started that opened while nothing was excused. */
  unexcusedAt = -Infinity

  constructor (ledger, servers, excuses, replaceTimeout) {
    this.#ledger = ledger
    this.#servers = servers
    this.#excuses = excuses
    this.#replaceTimeout = replaceTimeout
    this.#across = servers.length > 1
    this.deliveries = new Deliveries(ledger, servers, excuses, replaceTimeout)
    this.presence = new Presence(ledger, excuses, this.#across, this.deliveries.streams)
  }

  hear (process, word) {
    this.#words.push({ ...word, process })
    // At once: a sample reports a delay in the past, and comes after the words that the delay explains.
    if (word.event === 'sample') this.#excuses.sample({ ...word, process })
  }

  /** A process has died, together with the streams of the process. */
  died (process, at) {
    for (const call of this.#ledger.calls.values()) if (call.process === process) this.#words.push({ event: 'died', id: call.id, process, at })
    this.#words.push({ event: 'ended', process, at })
  }

  /** Looks at all words but the latest, and at everything that is overdue. To be called every `LOOK_MS`. */
  look (upTo = clock() - DELAY) {
    this.#excuses.look()
    this.#words.sort((a, b) => a.at - b.at)
    while (this.#words.length > 0 && this.#words[0].at <= upTo) this.#take(this.#words.shift())
    for (const call of [...this.#ledger.calls.values()]) this.#settle(call, upTo)
    this.deliveries.look(upTo)
    this.presence.look(upTo)
    for (const [key, calls] of this.#keys) this.#lookAtKey(key, calls, upTo)
    for (const [id, { to }] of this.#evictions) if (to < upTo - 60_000) this.#evictions.delete(id)
  }

  #sample (sample) {
    this.samples.push(sample)
    const { process, live, timers } = sample
    if (timers > TIMERS.each * live + TIMERS.plus) this.#ledger.lost('timers', `process ${process}: ${timers} timers for ${live} streams`)
  }

  #take (word) {
    if (word.event === 'sample') return this.#sample(word)
    if (word.event === 'fault') return this.#ledger.lost('faults', `process ${word.process}: ${word.what}: ${word.error}`)
    if (word.event === 'log') return this.#log(word)
    if (word.event === 'away' || word.event === 'back') return this.#cluster(word)
    if (word.event === 'call') return this.deliveries.called(word)
    if (word.event === 'result') return this.deliveries.resolved(word)
    if (word.event === 'ended') return this.deliveries.died(word.process)
    if (word.event === 'online' || word.event === 'offline') return this.presence[word.event](word)
    if (word.event === 'evict') return this.#evictions.set(word.id, { scope: word.scope, from: word.at, to: Infinity })
    if (word.event === 'evicted') return this.#evicted(word)
    const call = this.#ledger.calls.get(word.id)
    if (call === undefined) return
    this.#ledger.note(call.key, `${word.id} ${word.event}${word.reason === undefined ? '' : ` ${word.reason}`}${word.sent === undefined ? '' : ` ${word.sent}`}`, word.at)
    if (word.event === 'start') this.#start(call, word)
    else if (word.event === 'open') this.#opened(call, word)
    else if (word.event === 'refused') this.#refused(call, word)
    else if (word.event === 'over') call.overAt = word.at
    else if (word.event === 'gone') this.#gone(call, word)
    else if (word.event === 'died') call.diedAt = word.at
  }

  #start (call, { at }) {
    call.startAt = at
    this.deliveries.started(call)
    const calls = this.#keys.get(call.key)
    if (calls === undefined) this.#keys.set(call.key, [call])
    else calls.push(call)
  }

  #opened (call, { at, streamId, late }) {
    const { scope, key, process } = call
    this.#ledger.did('opened')
    if (!this.#excuses.troubled(call.startAt, at)) {
      this.#ledger.did('opened while nothing was excused')
      this.unexcusedAt = Math.max(this.unexcusedAt, call.startAt)
    }
    Object.assign(call, { openAt: at, streamId })
    this.#byStreamId.set(streamId, call)
    this.presence.opened(call)
    const waited = at - call.startAt
    const slack = Math.max(SLACK, late + this.#excuses.lateBetween(call.startAt, at))
    if (waited > this.#replaceTimeout + slack && !this.#servers[process].wasDown(call.startAt, at)) this.#ledger.lost('bounded', `${call.id} waited ${Math.round(waited)} ms`, key)
    const calls = this.#keys.get(key)
    for (const other of calls) {
      if (other === call || !isLive(other) || this.#excuses.pastTimeout(calls, other, at) || this.#excuses.troubled(other.startAt, at)) continue
      this.#ledger.lost('one', `${call.id} opened beside ${other.id}`, key)
    }
    // Outside this scope some streams are slow to end, and free a place only after `replaceTimeout`.
    if (scope !== CROWDED) return
    const crowd = [...this.#ledger.calls.values()].filter(other => other.scope === scope && other.process === process && isLive(other)).length
    if (crowd > LIMITS.maxStreamsPerScope && waited < this.#replaceTimeout - 50) this.#ledger.lost('limit', `${call.id} is number ${crowd} in ${scope}`, key)
  }

  #refused (call, { at, reason, code }) {
    call.refused = reason ?? code
    call.goneAt = at
    if (reason === 'replaced' || reason === 'evicted') this.#cause(call, reason, at, call.expects === 204)
  }

  #gone (call, { at, reason, sent, endingAt, late }) {
    Object.assign(call, { goneAt: at, reason, sent, endingAt, late })
    this.#ledger.did(`ended as ${reason}`)
    if (call.overAt === undefined) this.#ledger.lost('one', `${call.id} was said to be gone before its handler and its cleanups were over`, call.key)
    this.#cause(call, reason, at)
  }

  #cause (call, reason, at, excused = false) {
    const context = { keys: this.#keys, evictions: this.#evictions, excuses: this.#excuses, servers: this.#servers }
    if (!excused && !hasCause(call, reason, at, context)) this.#ledger.lost('cause', `${call.id}, ${call.mode}, ended as ${reason}`, call.key)
  }

  #evicted ({ id, at, scope, process }) {
    const eviction = this.#evictions.get(id)
    if (eviction === undefined) return
    eviction.to = at
    if (at - eviction.from > this.#replaceTimeout - 50) return
    for (const call of this.#ledger.calls.values()) {
      // Across processes, a stream that opened a moment before may not be in Redis yet.
      if (call.scope !== scope || !isLive(call) || call.openAt > eviction.from) continue
      if (call.process !== process && (this.#excuses.troubled(call.startAt, at) || this.#servers[call.process].wasDown(eviction.from - HEAL, at))) continue
      if (this.#excuses.pastTimeout(this.#keys.get(call.key), call, at)) continue
      this.#ledger.lost('evicted', `${call.id} was alive when the eviction ${id} of its scope had returned`, call.key)
    }
  }

  #log ({ process, at, line: { level, msg, err, streamId } }) {
    const text = `process ${process}: ${msg}${err === undefined ? '' : ` (${err.message}; ${err.stack})`}`
    if (level < 50 && WARNINGS.some(pattern => pattern.test(msg))) return this.#ledger.note(undefined, text.split('\n')[0], at)
    if (err?.message.startsWith('deliberate: ') === true) return this.#ledger.did('failed on purpose')
    const call = this.#byStreamId.get(streamId)
    if (/did not end within replaceTimeout/.test(msg) && call !== undefined) {
      this.#ledger.did('was given up after replaceTimeout')
      call.givenUpAt = at
      const slow = call.hold > this.#replaceTimeout
      if (slow || this.#servers[process].wasDown(call.startAt, clock())) return
    }
    this.#ledger.lost('faults', text, call?.key)
  }

  #cluster ({ event, process, at, held }) {
    const server = this.#servers[process]
    if (event === 'back') return server.mended?.(at)
    const known = this.#excuses.troubled(at, at) || server.wasDown(at, at)
    server.mended = this.#excuses.trouble('a process took Redis to be away', `process ${process}`, at)
    this.#ledger.did('missed Redis')
    // A process that could not work for that long cannot tell the delay of the process from a Redis that does not answer.
    if (!known && held < this.#replaceTimeout / 4) this.#ledger.lost('faults', `process ${process} took Redis to be away, and nothing had befallen it`)
  }

  #settle (call, upTo) {
    if (call.broken !== undefined && !call.reported) {
      call.reported = true
      this.#ledger.lost('events', `${call.id}: ${call.broken}`, call.key)
    }
    const serverKnows = call.goneAt !== undefined || call.diedAt !== undefined
    const age = upTo - (call.endedAt ?? call.goneAt ?? Infinity)
    if (serverKnows || (call.ending !== undefined && call.startAt === undefined && age > 0)) {
      const awaited = call.ending === undefined && !call.left && !call.pulled
      if (awaited && age < (call.deaf ? 3 * HEAL : HEAL)) return
      if (awaited && !call.deaf && call.diedAt === undefined) this.#ledger.lost('farewell', `${call.id} is ${call.reason ?? call.refused}, and its client has not heard of it`, call.key)
      this.#compare(call)
      this.#forget(call)
    } else this.#lookAtOpen(call, upTo)
  }

  /** Compares the two sides of a call that is over on both sides. */
  #compare (call) {
    const { id, key, status, reason, sent, received, farewell, ending } = call
    const away = call.left || call.pulled || call.diedAt !== undefined
    const down = this.#servers[call.process].wasDown(call.askedAt, call.endedAt ?? clock())
    const isLoser = reason === 'replaced' || reason === 'evicted'
    const clean = isLoser || reason === 'finished'
    const brokenOff = clean && this.#excuses.brokenOff(call)
    const right = call.expects === undefined ? status === 200 || (status === 204 && call.refused !== undefined) : status === call.expects
    if (!right && !(status === undefined && (away || down || brokenOff)) && !(status === 503 && down)) this.#ledger.lost('answers', `${id}, ${call.mode}, was answered ${status}`, key)
    if (status === 204) this.#ledger.did('answered 204')
    if (status !== 200 || reason === undefined) return
    if (call.deaf && !down && ['disconnected', 'expired'].includes(reason)) this.#ledger.lost('slow', `${id}, ${call.mode}, had a client that did not read, and ended as ${reason}`, key)
    if (received > sent) this.#ledger.lost('events', `${id} has ${received} of ${sent} events`, key)
    if (away || call.deaf) return
    const told = farewell?.reason ?? 'none'
    const toTell = isLoser ? reason : 'none'
    if (brokenOff && (told === 'none' || told === toTell)) return this.#ledger.did('ends that a late machine broke off')
    if (told !== toTell || ending !== (clean ? 'clean' : 'broken')) this.#ledger.lost('farewell', `${id} is ${reason}; its farewell: ${told}, its end: ${ending}`, key)
    if (clean && received !== sent) this.#ledger.lost('events', `${id} has ${received} of ${sent} events`, key)
    if (call.mode === 'has a last word' && reason === 'replaced' && !call.hadLastWord) this.#ledger.lost('events', `${id} has not heard the last word`, key)
    this.#ledger.did('events received', received)
  }

  #lookAtOpen (call, upTo) {
    if (call.reportedSilent || call.left || call.pulled || call.deaf || call.ending !== undefined || this.#excuses.mayBeLate(call.process, upTo)) return
    const since = upTo - (call.status === undefined ? call.askedAt : call.heardAt)
    if (since < this.#replaceTimeout + HEAL) return
    call.reportedSilent = true
    if (call.status === undefined) this.#ledger.lost('answers', `${call.id} has waited ${Math.round(since)} ms for an answer, ${call.localPort === undefined ? 'not connected' : call.startAt === undefined ? 'connected' : 'its handler running'}`, call.key)
    else this.#ledger.lost('events', `${call.id} has heard nothing for ${Math.round(since)} ms`, call.key)
  }

  #lookAtKey (key, calls, upTo) {
    const live = calls.filter(isLive)
    const newest = calls.findLast(call => call.openAt !== undefined || (call.refused === 'replaced' && call.expects === undefined))
    const kept = calls.filter(call => call === newest || this.#ledger.calls.has(call.id) || call.startAt > upTo - 60_000)
    if (live.length === 0 && kept.every(call => !this.#ledger.calls.has(call.id) && call.startAt <= upTo - 60_000)) return this.#keys.delete(key)
    this.#keys.set(key, kept)
    if (live.length === 0) return

    // The key has been quiet, without a start and without trouble, for longer than any start may take.
    const quiet = HEAL + this.#replaceTimeout * 2
    const last = calls.at(-1)
    if (last.atRest || upTo - last.startAt < quiet || this.#excuses.troubled(upTo, upTo) || this.#servers.some(server => server.wasDown(upTo - quiet, upTo))) return
    last.atRest = true
    this.#ledger.did(AT_REST)
    if (live.length > 1) this.#ledger.lost('newest', `${live.map(({ id }) => id).join(' and ')} are both alive`, key)
    else if (newest !== live[0] && !this.#mayBeOlder(live[0], newest)) this.#ledger.lost('newest', `${live[0].id} is alive, and ${newest.id} is newer`, key)
  }

  // A stream that came and went while Redis was away has replaced nothing in other processes.
  #mayBeOlder (live, newest) {
    return this.#across && (newest.startAt - live.startAt < CONCURRENT || this.#excuses.troubled(newest.startAt, newest.openAt ?? newest.goneAt))
  }

  #forget (call) {
    call.drop?.()
    this.#ledger.calls.delete(call.id)
    this.#byStreamId.delete(call.streamId)
  }
}

function isLive (call) {
  return call.openAt !== undefined && call.goneAt === undefined && call.diedAt === undefined
}
