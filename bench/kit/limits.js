// The limits of the machine: a benchmark that needs too many files says so at the start, instead of failing in the middle.
import { readFileSync } from 'node:fs'
import { Http2Wire } from './http2-wire.js'
import { Wire } from './wire.js'

/** Throws unless a process may have `count` files open. Node itself raises `ulimit -n` as far as it may. */
export function needFiles (count) {
  const files = maxFiles()
  if (files < count) throw new Error(`needs ${count} open files in one process, and ulimit -Hn allows ${files}`)
}

/** The open files that a process with `streams` connections needs. */
export const filesFor = streams => streams + 400

/** How `streams` streams can reach one process: over a connection each, or over HTTP/2 if the process may not open as many files. */
export function transportFor (streams) {
  return maxFiles() >= filesFor(streams) ? 'http1' : 'http2'
}

export const clientOf = transport => transport === 'http2' ? Http2Wire : Wire

function maxFiles () {
  try {
    return Number(/^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1] ?? Infinity)
  } catch {
    // This is not Linux. If there are too few files, the benchmark fails later.
    return Infinity
  }
}
