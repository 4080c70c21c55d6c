// Two hosts in network namespaces, with a virtual cable between the hosts that a test can pull. Needs Linux and root.
import { execFileSync, spawnSync } from 'node:child_process'
import type { Test } from 'tap'
import { reasonToSkip } from './programs.ts'

const ip = (...args: string[]) => execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] })

// Containers differ in their permissions, so try to make a namespace.
function obstacle (): string | false {
  if (process.platform !== 'linux') return 'network namespaces need Linux'
  const reason = reasonToSkip('ip')
  if (reason !== false) return reason
  const name = `octa-try-${process.pid}`
  const { status } = spawnSync('ip', ['netns', 'add', name])
  if (status !== 0) return 'network namespaces need root'
  ip('netns', 'delete', name)
  return false
}

/** Options for `t.test`: skip if network namespaces do not work here. */
export const networkOptions = { skip: obstacle() }

export interface Hosts {
  /** The words to put before a command line to run the command on that host. */
  server: string[]
  client: string[]
  serverAddress: string
  pullCable: () => void
}

export function twoHosts (t: Test): Hosts {
  const [server, client] = [`octa-server-${process.pid}`, `octa-client-${process.pid}`]
  t.teardown(() => { for (const name of [server, client]) spawnSync('ip', ['netns', 'delete', name]) })
  ip('netns', 'add', server)
  ip('netns', 'add', client)
  ip('-n', server, 'link', 'add', 'cable', 'type', 'veth', 'peer', 'name', 'cable', 'netns', client)
  for (const [name, address] of [[server, '10.81.0.1/24'], [client, '10.81.0.2/24']] as const) {
    ip('-n', name, 'address', 'add', address, 'dev', 'cable')
    ip('-n', name, 'link', 'set', 'cable', 'up')
  }
  return {
    server: ['ip', 'netns', 'exec', server],
    client: ['ip', 'netns', 'exec', client],
    serverAddress: '10.81.0.1',
    pullCable () { ip('-n', client, 'link', 'set', 'cable', 'down') }
  }
}
