// Finds a TCP port that is free now.
import { once } from 'node:events'
import net from 'node:net'

const PER_JOB = 500
// Below the range that Linux gives to outgoing connections (from 32768, see ip_local_port_range in ip(7)). An outgoing connection could
// otherwise take the port before the server listens. So could another test file, hence each of tap's jobs has ports of its own.
const first = 20_000 + Number(process.env.TAP_JOB_ID ?? 0) % 20 * PER_JOB
let next = Math.floor(Math.random() * PER_JOB)

/** Returns each port once before it returns a port again. */
export async function freePort (): Promise<number> {
  for (;;) {
    const port = first + next
    next = (next + 1) % PER_JOB
    const server = net.createServer().listen(port, '127.0.0.1')
    const free = await once(server, 'listening').then(() => true, () => false)
    if (!free) continue
    server.close()
    await once(server, 'close')
    return port
  }
}
