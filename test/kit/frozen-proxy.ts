// A TCP proxy that can pull the cable: what is open freezes, without FIN or RST and with nothing read; new connections pass.
import net, { type AddressInfo, type Socket } from 'node:net'
import { once } from 'node:events'
import type { Test } from 'tap'

export interface FrozenProxy {
  url: (path: string) => string
  /** Freezes every connection that is open now, or the one of the client with this port. */
  pullCable: (port?: number) => void
  /** Closes both ends of what was frozen from the client with this port, where nobody will look at them again. */
  drop: (port: number) => void
}

export async function frozenProxy (t: Test, port: number): Promise<FrozenProxy> {
  const pairs = new Set<[client: Socket, upstream: Socket]>()
  const frozen = new WeakSet<Socket>()
  const server = net.createServer(client => {
    const upstream = net.connect(port, '127.0.0.1')
    const pair: [Socket, Socket] = [client, upstream]
    pairs.add(pair)
    client.pipe(upstream)
    upstream.pipe(client)
    for (const [socket, peer] of [pair, [upstream, client]] as const) {
      socket.on('error', () => {})
      socket.on('close', () => {
        // A clean end is piped, behind what came before it; a reset is not.
        if (!socket.readableEnded && !frozen.has(peer)) peer.destroy()
        if (client.destroyed && upstream.destroyed) pairs.delete(pair)
      })
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    for (const pair of pairs) for (const socket of pair) socket.destroy()
    server.close()
  })
  return {
    url: path => `http://127.0.0.1:${(server.address() as AddressInfo).port}${path}`,
    pullCable (port) {
      for (const [client, upstream] of pairs) {
        if (port !== undefined && client.remotePort !== port) continue
        frozen.add(client).add(upstream)
        client.unpipe(upstream)
        upstream.unpipe(client)
        // A socket that nobody reads fills the kernel's buffers, and then its peer's.
        client.pause()
        upstream.pause()
      }
    },
    drop (port) {
      for (const [client, upstream] of pairs) {
        if (client.remotePort !== port || !frozen.has(client)) continue
        client.destroy()
        upstream.destroy()
      }
    }
  }
}
