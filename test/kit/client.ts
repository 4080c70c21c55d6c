// A client that opens one SSE response on a socket of its own, keeps its events, and says how it ended.
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

export class Client extends EventEmitter {
  readonly status: number
  readonly headers: http.IncomingHttpHeaders
  readonly events: ReceivedEvent[] = []
  /** All of the body, as it came. */
  text = ''
  /** Settles when the response is over. */
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

  /** Leaves, as a browser does that closes the tab. */
  leave (): void {
    this.#request.destroy()
  }

  /** Resolves when the nth event (from 1) is there. */
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
      this.emit('received')
    }
  }
}

/** Resolves when the response's head is there, whatever its status. */
export function connect (url: string, { method = 'GET', headers = {}, body, agent = false }: ClientOptions = {}): Promise<Client> {
  // Node frames the body of a DELETE only if it is told its length.
  const length = body === undefined ? {} : { 'content-length': String(Buffer.byteLength(body)) }
  return new Promise((resolve, reject) => {
    const request = http.request(url, { method, agent, headers: { accept: 'text/event-stream', ...length, ...headers } })
    request.on('response', response => resolve(new Client(request, response)))
    request.on('error', reject)
    request.end(body)
  })
}
