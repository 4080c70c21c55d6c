// Why a stream may end: for each reason that a server reports, there must have been a cause.
import { CONCURRENT, LIMITS } from './settings.js'

/** Whether `call` could end at `at` because of `reason`. `keys`: all calls by key. */
export function hasCause (call, reason, at, { keys, evictions, excuses, servers }) {
  const across = servers.length > 1
  const server = servers[call.process]
  switch (reason) {
    case 'replaced': return keys.get(call.key).some(other => other !== call && other.startAt > call.startAt - (across ? CONCURRENT : 0)) || (call.tabId !== undefined && excuses.troubled(call.startAt, at))
    case 'evicted': return [...evictions.values()].some(({ scope, from, to }) => scope === call.scope && from < at && to > call.startAt) || wasFull(call, at, keys)
    // Counts from the start, because a busy process reports the opening late. Node's timers round times to whole milliseconds.
    case 'expired': return at - call.startAt > LIMITS.maxAge * 0.9 - 5
    case 'failed': return call.mode === 'throws'
    case 'finished': return call.mode === 'finishes'
    case 'stalled': return call.deaf || call.pulled || server.wasDown(at - LIMITS.stallTimeout, at)
    case 'shutdown': return server.wasDown(at, at)
    case 'disconnected': return call.left || call.pulled
  }
}

/** Whether another stream came to the scope during the life of the call while the scope had as many streams as the limit allows. */
function wasFull ({ scope, process, startAt, key }, until, keys) {
  const neighbours = [...keys.values()].flat().filter(other => other.scope === scope && other.process === process)
  return neighbours.some(({ startAt: at, key: newKey }) => {
    if (newKey === key || at < startAt || at > until) return false
    const taken = neighbours.filter(other => other.key !== newKey && other.startAt <= at && !(other.goneAt < at) && !(other.diedAt < at))
    return new Set(taken.map(other => other.key)).size >= LIMITS.maxStreamsPerScope
  })
}
