// The processes under soak: each behind a cable that can be pulled and, with Redis, a network to Redis that can fail.
import { once } from 'node:events'
import { cableProxy, redisProxy, startChild } from './kit.js'
import { clock, SLACK } from './settings.js'

export async function startServers (session, count, { seed, replaceTimeout, redisPort }) {
  return await Promise.all(Array.from({ length: count }, async (_, index) => {
    const network = redisPort === undefined ? undefined : await redisProxy(session, redisPort)
    const server = new Server(session, index, { seed, replaceTimeout, network })
    await server.start()
    const cable = await cableProxy(session, server.port)
    server.frontPort = Number(new URL(cable.url('/')).port)
    server.cable = cable
    return server
  }))
}

class Server {
  /** The port of the process, the same after a restart. */
  port = 0
  /** When the process was last told to close. */
  closingSince
  /** When the last sample of the process came. */
  sampledAt
  frontPort
  cable
  /** Called with each line that the process prints. */
  onWord = () => {}
  #session
  #seed
  #replaceTimeout
  #child
  #starts = 0
  #downs = []
  #losses = []

  constructor (session, index, { seed, replaceTimeout, network }) {
    this.#session = session
    this.index = index
    this.network = network
    this.#seed = seed
    this.#replaceTimeout = replaceTimeout
  }

  async start () {
    const child = this.#child = startChild(this.#session, 'soak/server.js', {
      PORT: String(this.port),
      SEED: String(this.#seed),
      SENDER: `process${this.index}.${++this.#starts}`,
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

  /** Until the returned function is called, nothing is expected of the process. */
  down () {
    const down = { from: clock(), to: Infinity }
    this.#downs.push(down)
    return () => { down.to = clock() + SLACK }
  }

  /** Notes a time in which the machine held up the process, or the process that watches. */
  heldUp (from, to) {
    this.#downs.push({ from, to: to + SLACK })
  }

  wasDown (from, to) {
    return this.#downs.some(down => down.from <= to && down.to >= from)
  }

  /** The next message of Redis with this text is lost on the way to the process, and everything that travels in the same packet. */
  async loseNext (text) {
    await this.network.loseNext(text)
    this.#losses.push(clock())
  }

  hasLostMessage (from, to) {
    return this.#losses.some(at => from <= at && at <= to)
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
