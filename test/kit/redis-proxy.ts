// A TCP proxy in front of a Redis. Can freeze, cut and delay connections, and drop messages.
import { once } from 'node:events'
import net, { type AddressInfo, type Socket } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import type { Test } from 'tap'

export interface RedisProxy {
  readonly port: number
  /** The port of the Redis to which new connections go. */
  to: number
  /** The delay in each direction. Unit: milliseconds. */
  delay: number
  /** Holds back all data of the open connections of this kind, until `thaw`. */
  freeze: (kind?: ConnectionKind) => void
  thaw: () => void
  /** Resets the connections of this kind, and refuses new connections until `mend`. */
  cut: (kind?: ConnectionKind) => void
  mend: () => void
  /** Drops the next chunk from Redis that contains `text`. Resolves when the chunk is dropped. */
  loseNext: (text: string) => Promise<void>
}

/** The connections that have sent SUBSCRIBE, or the connections that have not. */
export type ConnectionKind = 'subscribers' | 'commands'

export async function redisProxy (t: Test, to: number): Promise<RedisProxy> {
  interface Pair { client: Socket, upstream: Socket, subscribes: boolean, frozen: boolean, held: Array<() => void> }
  const pairs = new Set<Pair>()
  let isCut: ConnectionKind | 'all' | undefined
  let toLose: { text: string, onLost: () => void } | undefined
  const concerns = (kind: ConnectionKind | 'all' | undefined, pair: Pair) => kind === 'all' || kind === (pair.subscribes ? 'subscribers' : 'commands')
  const server = net.createServer({ noDelay: true }, client => {
    const upstream = net.connect({ port: proxy.to, host: '127.0.0.1', noDelay: true })
    const pair: Pair = { client, upstream, subscribes: false, frozen: false, held: [] }
    pairs.add(pair)
    const pass = async (chunk: Buffer, target: Socket) => {
      if (proxy.delay > 0) await pause(proxy.delay)
      if (pair.frozen) pair.held.push(() => target.write(chunk))
      else target.write(chunk)
    }
    const end = () => {
      pairs.delete(pair)
      client.destroy()
      upstream.destroy()
    }
    client.on('data', chunk => {
      if (/\r\nsubscribe\r\n/i.test(chunk.toString('latin1'))) pair.subscribes = true
      if (concerns(isCut, pair)) end()
      else pass(chunk, upstream)
    })
    upstream.on('data', chunk => {
      if (toLose === undefined || !chunk.includes(toLose.text)) return pass(chunk, client)
      toLose.onLost()
      toLose = undefined
    })
    for (const socket of [client, upstream]) socket.on('close', end).on('error', end)
    if (concerns(isCut, pair) && isCut === 'all') end()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    for (const { client, upstream } of pairs) {
      client.destroy()
      upstream.destroy()
    }
    server.close()
  })
  const proxy: RedisProxy = {
    port: (server.address() as AddressInfo).port,
    to,
    delay: 0,
    freeze (kind) { for (const pair of pairs) pair.frozen ||= concerns(kind ?? 'all', pair) },
    thaw () {
      for (const pair of pairs) {
        pair.frozen = false
        for (const write of pair.held.splice(0)) write()
      }
    },
    cut (kind) {
      isCut = kind ?? 'all'
      for (const pair of pairs) if (concerns(isCut, pair)) pair.client.resetAndDestroy()
    },
    mend () { isCut = undefined },
    loseNext: text => new Promise(resolve => { toLose = { text, onLost: resolve } })
  }
  return proxy
}
