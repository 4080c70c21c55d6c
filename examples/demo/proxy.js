// The cable between browser and server: a TCP proxy that can freeze the open connections, as a sleeping laptop or a lost wifi does.
// If there are several servers, the proxy hands each new connection to the next server in turn.
import net from 'node:net'
import { once } from 'node:events'

export function createProxy () {
  const pairs = new Set()
  // The names of the frozen connections. A name is made of the two ports that the server sees.
  const frozen = new Set()
  let ports
  let turn = 0

  const server = net.createServer(client => {
    const upstream = net.connect(ports[turn++ % ports.length], '127.0.0.1')
    const pair = { client, upstream, name: undefined, frozen: false }
    upstream.on('connect', () => { pair.name = `${upstream.remotePort}-${upstream.localPort}` })
    pairs.add(pair)
    client.pipe(upstream)
    upstream.pipe(client)
    // When a socket closes, close the peer too, unless the cable was pulled.
    for (const [socket, peer] of [[client, upstream], [upstream, client]]) {
      socket.on('error', () => {})
      socket.on('close', () => {
        if (socket === upstream) forget(pair)
        if (!pair.frozen) peer.destroy()
      })
    }
  })

  function forget (pair) {
    pairs.delete(pair)
    frozen.delete(pair.name)
    pair.client.destroy()
  }

  return {
    /** Starts to listen on `port`, in front of the servers that listen on the ports `to`. Resolves to the port. */
    async listen ({ port, to }) {
      ports = to
      server.listen(port, '127.0.0.1')
      await once(server, 'listening')
      return server.address().port
    },
    isFrozen: name => frozen.has(name),
    frozen: () => [...frozen],
    /** Freezes every open connection except the connection with the name `except`. No FIN or RST is sent, and nothing is read. New connections pass. */
    pullCable (except) {
      for (const pair of pairs) {
        if (pair.name === except) continue
        pair.frozen = true
        pair.client.unpipe(pair.upstream).pause()
        pair.upstream.unpipe(pair.client).pause()
        frozen.add(pair.name)
      }
    },
    close () {
      for (const pair of pairs) pair.upstream.destroy()
      server.close()
    }
  }
}
