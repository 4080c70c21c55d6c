// The load client: a keep-alive HTTP/1.1 connection on a bare socket. Of each response the client only reads where the response begins and ends.
import net from 'node:net'
import { once } from 'node:events'

const LAST_CHUNK = '0\r\n\r\n'
// All data of a read is used before the next read, so all sockets can share a buffer.
const buffer = Buffer.allocUnsafeSlow(1 << 16)
/** How many connections are opened at once. A server's backlog of waiting connections is 511 by default. */
const AT_ONCE = 200

/** How many connections an address opens to the same port. Linux has 28,000 ports for them by default. */
const PER_ADDRESS = 20_000

/** The address that the connection with this number comes from. `undefined`: the system chooses. */
function addressFor (number) {
  return number < PER_ADDRESS ? undefined : `127.0.0.${1 + Math.floor(number / PER_ADDRESS)}`
}

export class Wire {
  /** Called when the head of a response has come. */
  onHead = () => {}
  /** Called with each piece of a body, as text. */
  onBody = () => {}
  /** Called when a response is complete. */
  onEnd = () => {}
  #socket
  #head = ''
  // The last bytes of a body, because the last chunk may come in pieces.
  #tail = ''
  // How many bytes of a body with a known length are missing. `undefined` if the body comes in chunks.
  #missing
  #expects = 'nothing'

  constructor (port, localAddress) {
    this.#socket = net.connect({
      port,
      host: '127.0.0.1',
      localAddress,
      noDelay: true,
      onread: { buffer, callback: (length, bytes) => { this.#read(bytes.latin1Slice(0, length)); return true } }
    })
  }

  /** Opens `count` connections to a port. */
  static async connect (port, count) {
    const wires = []
    while (wires.length < count) {
      const some = Array.from({ length: Math.min(AT_ONCE, count - wires.length) }, () => new Wire(port, addressFor(wires.length)))
      await Promise.all(some.map(wire => once(wire.#socket, 'connect')))
      for (const wire of some) wire.#socket.on('close', () => { if (!wire.#socket.left) throw new Error('the server broke a connection') })
      wires.push(...some)
    }
    return wires
  }

  /** The same, and the connections leave when what `keep` keeps is closed. */
  static async connectUntilClosed (keep, port, count) {
    const wires = await this.connect(port, count)
    keep({ close: () => wires.forEach(wire => wire.leave()) })
    return wires
  }

  request (path) {
    this.#expects = 'head'
    this.#head = ''
    this.#socket.write(`GET ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n`, 'latin1')
  }

  /** Resolves when the head of the response has come. */
  open (path) {
    return new Promise(resolve => {
      this.onHead = resolve
      this.request(path)
    })
  }

  /** Breaks the connection off with a reset, because a connection that is closed with a FIN occupies the port for a minute. */
  leave () {
    this.#socket.left = true
    this.#socket.resetAndDestroy()
  }

  #read (text) {
    if (this.#expects === 'nothing') throw new Error(`the server sent what was not asked for: ${text}`)
    if (this.#expects === 'head') {
      this.#head += text
      const end = this.#head.indexOf('\r\n\r\n')
      if (end === -1) return
      if (!this.#head.startsWith('HTTP/1.1 200')) throw new Error(`the server answered ${this.#head}`)
      const length = /\r\ncontent-length: (\d+)/i.exec(this.#head)
      this.#missing = length === null ? undefined : Number(length[1])
      this.#tail = ''
      this.#expects = 'body'
      text = this.#head.slice(end + 4)
      this.onHead()
    }
    if (text !== '') this.#readBody(text)
  }

  #readBody (text) {
    this.onBody(text)
    if (this.#missing !== undefined) this.#missing -= text.length
    else this.#tail = text.length >= LAST_CHUNK.length ? text : this.#tail.slice(-LAST_CHUNK.length) + text
    if (this.#missing === 0 || this.#tail.endsWith(LAST_CHUNK)) {
      this.#expects = 'nothing'
      this.onEnd()
    }
  }
}

/**
 * Sends requests on all `wires` for a while: when a response is complete, the wire requests its next path. Resolves to the number
 * of responses per second, by the clock and by the server's processor time.
 */
export function throughput (server, wires, nextPath, milliseconds) {
  return rates(server, () => keepAsking(wires, nextPath, milliseconds))
}

/** Like `throughput`, for clients that leave at once: `atOnce` at a time connect, send a request, and reset the connection when the head has come. */
export function throughputOfLeavers (server, atOnce, nextPath, milliseconds) {
  return rates(server, async () => {
    const start = performance.now()
    let count = 0
    await Promise.all(Array.from({ length: atOnce }, async () => {
      while (performance.now() - start < milliseconds) {
        const [wire] = await Wire.connect(server.port, 1)
        await wire.open(nextPath())
        wire.leave()
        count++
      }
    }))
    return { count, seconds: (performance.now() - start) / 1000 }
  })
}

// Linux charges the server for waking a client that sleeps, and how often the client sleeps depends on the number of packets.
async function rates (server, ask) {
  const cpuBefore = await server.ask('cpu')
  const { count, seconds } = await awake(ask)
  return { perSecond: count / seconds, perCpuSecond: count / (await server.ask('cpu') - cpuBefore) }
}

/**
 * Calls `task`. Until the task's promise resolves, this process polls and never sleeps. Beside a busy loop the process does not poll, because the
 * server would get too little of two cores.
 */
export async function awake (task) {
  if (process.env.BENCH_BUSY_LOOP !== undefined) return await task()
  let immediate = setImmediate(function poll () { immediate = setImmediate(poll) })
  try {
    return await task()
  } finally {
    clearImmediate(immediate)
  }
}

function keepAsking (wires, nextPath, milliseconds) {
  return new Promise(resolve => {
    const start = performance.now()
    let count = 0
    let busy = wires.length
    for (const wire of wires) {
      wire.onEnd = () => {
        count++
        if (performance.now() - start < milliseconds) wire.request(nextPath())
        else if (--busy === 0) resolve({ count, seconds: (performance.now() - start) / 1000 })
      }
      wire.request(nextPath())
    }
  })
}

/** Calls `task` with each item, at most `atOnce` at a time. */
export async function forEach (items, atOnce, task) {
  let next = 0
  await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, async () => {
    while (next < items.length) await task(items[next], next++)
  }))
}

// Several processes may open streams on the same server.
let lastTab = process.pid * 1_000_000

/**
 * The path of a request for a stream. Without `tab`, the request comes from a new tab. The tab id is a UUID, as in the browser module: V8 puts
 * shorter strings of JSON into a table of all strings, which takes longer.
 */
export function streamPath (route, tab = ++lastTab) {
  return `/${route}/user${tab}?datastar=%7B%22tabId%22%3A%2200000000-0000-4000-8000-${String(tab).padStart(12, '0')}%22%7D`
}
