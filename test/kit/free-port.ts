// A port that nobody listens on now.
import { once } from 'node:events'
import net from 'node:net'

// Below the ports that the kernel hands out to clients, one of which could take it before the server does.
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
