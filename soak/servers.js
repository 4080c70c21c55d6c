// The processes under soak: each behind a cable that can be pulled and, with Redis, a network to it that can fail.
import { once } from 'node:events'
import { cableProxy, redisProxy, startChild } from './kit.js'
import { clock, SLACK } from './settings.js'

export async function startServers (session, count, replaceTimeout, redisPort) {
  return await Promise.all(Array.from({ length: count }, async (_, index) => {
    const network = redisPort === undefined ? undefined : await redisProxy(session, redisPort)
    const server = new Server(session, index, replaceTimeout, network)
    await server.start()
    const cable = await cableProxy(session, server.port)
    server.frontPort = Number(new URL(cable.url('/')).port)
    server.cable = cable
    return server
  }))
}

class Server {
  /** Where it listens, also after it was started anew. */
  port = 0
  /** When it was last told to close. */
  closingSince
  /** When it last said how it is. */
  sampledAt
  frontPort
  cable
  /** Called with each word it says, once somebody listens. */
  onWord = () => {}
  #session
  #replaceTimeout
  #child
  #downs = []

  constructor (session, index, replaceTimeout, network) {
    this.#session = session
    this.index = index
    this.network = network
    this.#replaceTimeout = replaceTimeout
  }

  async start () {
    const child = this.#child = startChild(this.#session, 'soak/server.js', {
      PORT: String(this.port),
      REPLACE_TIMEOUT: String(this.#replaceTimeout),
      ...this.network === undefined ? {} : { REDIS_PORT: String(this.network.port) }
    })
    const listening = new Promise(resolve => {
      child.lines.on('line', line => {
        const word = JSON.parse(line)
        if (word.event === 'listening') resolve(word.port)
        else this.onWord(word)
      })
    })
    const ended = once(child.lines, 'close').then(() => { throw new Error(`a server did not start: ${child.errors()}`) })
    ended.catch(() => {})
    this.port = await Promise.race([listening, ended])
  }

  /** Until the function it returns is called nothing is expected of it. */
  down () {
    const down = { from: clock(), to: Infinity }
    this.#downs.push(down)
    return () => { down.to = clock() + SLACK }
  }

  /** Notes a time in which it, or who watches it, was not given the machine. */
  heldUp (from, to) {
    this.#downs.push({ from, to: to + SLACK })
  }

  wasDown (from, to) {
    return this.#downs.some(down => down.from <= to && down.to >= from)
  }

  signal (signal) {
    this.#child.signal(signal)
  }

  async ended () {
    const [code, signal] = await this.#child.exited
    return { code, signal, errors: this.#child.errors() }
  }

  async get (path) {
    const response = await fetch(`http://127.0.0.1:${this.port}${path}`, { headers: { connection: 'close' } })
    return await response.json()
  }
}
