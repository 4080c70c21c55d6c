// A TCP proxy that can pull the cable. The open connections freeze: no FIN, no RST, and nothing is read. New connections pass.
import net, { type AddressInfo, type Socket } from 'node:net'
import { once } from 'node:events'
import type { Test } from 'tap'

export interface CableProxy {
  url: (path: string) => string
  /** Freezes every open connection, or only the connection of the client with this port. */
  pullCable: (port?: number) => void
  /** Closes both sockets of the frozen connection of the client with this port. Call when the test no longer needs the connection. */
  drop: (port: number) => void
}

export async function cableProxy (t: Test, port: number): Promise<CableProxy> {
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
        // `pipe` passes a clean end on, after the data. `pipe` does not pass a reset on.
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
        // A paused socket fills the kernel's receive buffer, and then the send buffer of the peer.
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
