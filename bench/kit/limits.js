// The limits of the machine: a benchmark that needs too many files says so at the start, instead of failing in the middle.
import { readFileSync } from 'node:fs'

/** Throws unless a process may have `count` files open. Node itself raises `ulimit -n` as far as it may. */
export function needFiles (count) {
  const files = maxFiles()
  if (files < count) throw new Error(`needs ${count} open files in one process, and ulimit -Hn allows ${files}`)
}

function maxFiles () {
  try {
    return Number(/^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1] ?? Infinity)
  } catch {
    // This is not Linux. If there are too few files, the benchmark fails later.
    return Infinity
  }
}
