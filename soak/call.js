// One request of a virtual tab. Keeps of the response what the checks need: numbers without a gap, the farewell, and the end.
import http from 'node:http'
import { Inbox } from './inbox.js'
import { clock } from './settings.js'

export class Call {
  status
  /** The number of the last event. */
  received = 0
  /** What is wrong with the events, if anything is. */
  broken
  /** The messages that came through the registry. */
  inbox = new Inbox(this)
  farewell
  hadLastWord = false
  heardAt = clock()
  /** 'clean' or 'broken'. `undefined` while the response lasts. */
  ending
  endedAt
  // When the tab disconnected, and when the cable was pulled.
  leftAt
  pulledAt
  deaf = false
  /** Resolves to the status, or to `undefined` if no response came. */
  answered
  ended
  #request
  #response
  #unparsed = ''

  constructor (id, { port, path, method = 'GET', headers = {}, body, agent = false }) {
    this.id = id
    this.askedAt = clock()
    const length = body === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }
    const request = this.#request = http.request({ port, host: '127.0.0.1', path, method, agent, headers: { accept: 'text/event-stream', ...length, ...headers } })
    let end
    this.ended = new Promise(resolve => { end = resolve })
    const over = ending => {
      if (this.ending !== undefined) return
      this.ending = ending
      this.endedAt = clock()
      end(ending)
    }
    this.answered = new Promise(resolve => {
      request.on('response', response => {
        this.#response = response
        this.status = response.statusCode
        this.heardAt = clock()
        response.setEncoding('utf8')
        response.on('data', text => this.#receive(text))
        response.on('end', () => over('clean'))
        response.on('error', () => over('broken'))
        response.on('close', () => over('broken'))
        resolve(this.status)
      })
      request.on('error', () => {
        over('broken')
        resolve(undefined)
      })
      request.on('close', () => resolve(this.status))
    })
    request.end(body)
  }

  get left () {
    return this.leftAt !== undefined
  }

  get pulled () {
    return this.pulledAt !== undefined
  }

  get open () {
    return this.status === 200 && this.ending === undefined && !this.left && !this.pulled
  }

  /** The port of the client's end of the connection. */
  get localPort () {
    return this.#request.socket?.localPort
  }

  get reusedSocket () {
    return this.#request.reusedSocket
  }

  /** Disconnects, as a browser does when the tab is closed. */
  leave () {
    if (this.ending === undefined) this.leftAt ??= clock()
    this.#request.destroy()
  }

  pause () {
    this.deaf = true
    this.#response?.pause()
  }

  resume () {
    this.#response?.resume()
  }

  #receive (text) {
    this.heardAt = clock()
    if (this.status !== 200) return
    const blocks = (this.#unparsed + text).split('\n\n')
    this.#unparsed = blocks.pop()
    // A head without events comes with an empty line. If the server stood still, a heartbeat may be the next that comes.
    for (const block of blocks.map(block => block.replace(/^\n/, ''))) if (!block.startsWith(':')) this.#take(block)
  }

  #take (block) {
    const { event, id, data } = Object.fromEntries(block.split('\n').map(line => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 2)]))
    if (this.farewell !== undefined) this.broken ??= `'${event} ${id}' after the farewell`
    else if (event === 'octa-star-closed') this.farewell = { id, reason: data }
    else if (event === 'm') this.inbox.take(JSON.parse(data))
    else {
      if (event !== 'n' || Number(id) !== this.received + 1) this.broken ??= `'${event} ${id}' after ${this.received}`
      if (!data.startsWith(`${this.id} `)) this.broken ??= `an event of another stream: ${data.slice(0, 40)}`
      this.hadLastWord ||= data.endsWith(' last word')
      this.received++
    }
  }
}
