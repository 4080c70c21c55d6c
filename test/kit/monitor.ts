// Shows the commands that a Redis executes. Does not use the `monitor` of ioredis, which fails if a command comes together with the reply to MONITOR.
import { once } from 'node:events'
import { connect } from 'node:net'
import { createInterface } from 'node:readline'
import type { Test } from 'tap'

/** Resolves to a list that grows: each command with its arguments. Commands that a script calls are in the list too. */
export async function monitorCommands (t: Test, port: number): Promise<string[][]> {
  const commands: string[][] = []
  const socket = connect(port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  const lines = createInterface(socket)
  const isMonitoring = once(lines, 'line')
  // +1795661096.550116 [0 127.0.0.1:52912] "evalsha" "a digest" "1" "a key"
  lines.on('line', line => { commands.push([...line.matchAll(/"((?:[^"\\]|\\.)*)"/g)].map(([, word]) => word!)) })
  socket.write('MONITOR\r\n')
  await isMonitoring
  commands.length = 0
  return commands
}
