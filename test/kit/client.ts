// A client that opens one SSE response on a new socket, keeps the events, and reports how the response ended.
import http from 'node:http'
import { EventEmitter, once } from 'node:events'
import type { Socket } from 'node:net'

export interface ReceivedEvent {
  event: string
  data: string
  id: string | undefined
}

export type Ending = 'clean' | 'broken'

export interface ClientOptions {
  method?: string
  headers?: Record<string, string>
  body?: string
  agent?: http.Agent | false
}

/** Emits `received` whenever a part of the body has arrived, comments included. */
export class Client extends EventEmitter {
  readonly status: number
  readonly headers: http.IncomingHttpHeaders
  readonly events: ReceivedEvent[] = []
  /** The body so far. */
  text = ''
  /** Resolves when the response is over. */
  readonly ended: Promise<Ending>
  readonly socket: Socket
  readonly #request: http.ClientRequest
  #unparsed = ''

  constructor (request: http.ClientRequest, response: http.IncomingMessage) {
    super()
    this.#request = request
    this.socket = response.socket
    this.status = response.statusCode!
    this.headers = response.headers
    response.setEncoding('utf8')
    response.on('data', (text: string) => this.#receive(text))
    this.ended = new Promise(resolve => {
      response.on('end', () => resolve('clean'))
      response.on('error', () => resolve('broken'))
    })
  }

  /** Disconnects, as a browser does when the tab is closed. */
  leave (): void {
    this.#request.destroy()
  }

  /** Resolves to the event number `count`, counted from 1, when that event has arrived. */
  async event (count: number): Promise<ReceivedEvent> {
    while (this.events.length < count) await once(this, 'received')
    return this.events[count - 1]!
  }

  #receive (text: string): void {
    this.text += text
    this.#unparsed += text
    const blocks = this.#unparsed.split('\n\n')
    this.#unparsed = blocks.pop()!
    for (const block of blocks) {
      const field = (name: string) => block.split('\n').filter(line => line.startsWith(`${name}: `)).map(line => line.slice(name.length + 2))
      if (block.startsWith(':')) continue
      this.events.push({ event: field('event')[0] ?? 'message', data: field('data').join('\n'), id: field('id')[0] })
    }
    this.emit('received')
  }
}

/** Resolves when the head of the response has arrived, whatever the status. */
export function connect (url: string, { method = 'GET', headers = {}, body, agent = false }: ClientOptions = {}): Promise<Client> {
  // For a DELETE, Node sends neither Content-Length nor Transfer-Encoding by default (`useChunkedEncodingByDefault` in lib/_http_client.js).
  const length = body === undefined ? {} : { 'content-length': String(Buffer.byteLength(body)) }
  return new Promise((resolve, reject) => {
    const request = http.request(url, { method, agent, headers: { accept: 'text/event-stream', ...length, ...headers } })
    request.on('response', response => resolve(new Client(request, response)))
    request.on('error', reject)
    request.end(body)
  })
}
