// The cable between browser and server: a TCP proxy that can freeze what is open, as a sleeping laptop or a lost wifi does.
// Of several servers each new connection goes to the next.
import net from 'node:net'
import { once } from 'node:events'

export async function startProxy ({ port, to }) {
  const pairs = new Set()
  // The frozen connections, by the two ports that their server sees.
  const frozen = new Set()
  let turn = 0

  const server = net.createServer(client => {
    const upstream = net.connect(to[turn++ % to.length], '127.0.0.1')
    const pair = { client, upstream, name: undefined, frozen: false }
    upstream.on('connect', () => { pair.name = `${upstream.remotePort}-${upstream.localPort}` })
    pairs.add(pair)
    client.pipe(upstream)
    upstream.pipe(client)
    // What happens to one end is told to the other, unless the cable was pulled.
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

  server.listen(port, '127.0.0.1')
  await once(server, 'listening')

  return {
    port: server.address().port,
    isFrozen: name => frozen.has(name),
    frozen: () => [...frozen],
    /** Freezes every open connection: no FIN, no RST, nothing read any more. New connections pass. */
    pullCable () {
      for (const pair of pairs) {
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
