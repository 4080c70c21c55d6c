// deadPeerProbe: a peer whose cable was pulled is noticed without a successor, within the limits that the README states.
import { once } from 'node:events'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as pause } from 'node:timers/promises'
import t from 'tap'
import { startChild } from './kit/child.ts'
import { networkOptions, twoHosts } from './kit/network.ts'

interface Said { event: 'listening' | 'open' | 'gone', port: number, scope: string, reason?: string }

t.test('a pulled cable ends quiet streams within the probe and ten seconds, over HTTP/1.1 and over HTTP/2, but not without the probe, or while data is unacknowledged', networkOptions, async t => {
  const hosts = twoHosts(t)
  const server = startChild(t, 'test/kit/dead-peer-server.js', {}, hosts.server)
  const said: Said[] = []
  server.lines.on('line', line => said.push(JSON.parse(line)))
  const heard = (event: string) => said.filter(word => word.event === event)
  const until = async (event: string, count: number) => { while (heard(event).length < count) await pause(10) }
  await until('listening', 1)
  const client = startChild(t, 'test/kit/dead-peer-client.js', { HOST: hosts.serverAddress }, hosts.client)
  // The client has the head of each response. The kernel acknowledges the head within the time of a delayed acknowledgement, see RFC 9293, section 3.8.6.3.
  const [word] = await Promise.race([once(client.lines, 'line'), client.exited])
  t.equal(word, 'open', client.errors())
  await pause(1_000)

  const delays = monitorEventLoopDelay()
  delays.enable()
  hosts.pullCable()
  const pulled = performance.now()
  await until('gone', 3)
  const took = performance.now() - pulled
  delays.disable()
  // One second of silence and ten probes of one second, timed by the kernel. The rest allows for three processes on a busy machine, and is
  // measured by the delay of this event loop.
  const late = 20 * delays.max / 1e6
  t.ok(took > 9_000 && took < 16_000 + late, `${Math.round(took)} ms, of which ${Math.round(late)} ms may be this machine's`)
  await pause(5_000)
  t.strictSame(heard('gone').map(({ port, scope, reason }) => `${port} ${scope} ${reason}`).sort(), ['3001 quiet disconnected', '3003 one disconnected', '3003 two disconnected'])
})
