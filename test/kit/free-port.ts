// Finds a TCP port that is free now.
import { once } from 'node:events'
import net from 'node:net'

// Takes a port below the range that Linux gives to outgoing connections (from 32768, see ip_local_port_range in ip(7)). An outgoing
// connection could otherwise take the port before the server listens.
export async function freePort (): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 10_000)
    const server = net.createServer().listen(port, '127.0.0.1')
    const free = await once(server, 'listening').then(() => true, () => false)
    if (!free) continue
    server.close()
    await once(server, 'close')
    return port
  }
}
