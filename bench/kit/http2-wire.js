// Like `Wire`, over HTTP/2: many streams share a connection, so that many streams need few open files.
import http2 from 'node:http2'
import { once } from 'node:events'
import { Wire } from './wire.js'

const STREAMS_PER_CONNECTION = 100

export class Http2Wire {
  onHead = () => {}
  onBody = () => {}
  onEnd = () => {}
  #session

  constructor (session) {
    this.#session = session
  }

  static async connect (port, count) {
    const wires = []
    while (wires.length < count) {
      const session = http2.connect(`http://127.0.0.1:${port}`)
      await once(session, 'connect')
      session.on('close', () => { if (!session.left) throw new Error('the server broke a connection') })
      for (let i = 0; i < STREAMS_PER_CONNECTION && wires.length < count; i++) wires.push(new Http2Wire(session))
    }
    return wires
  }

  static connectUntilClosed = Wire.connectUntilClosed

  open (path) {
    return new Promise(resolve => {
      this.onHead = resolve
      const stream = this.#session.request({ ':path': path, accept: 'text/event-stream' })
      stream.setEncoding('latin1')
      stream.on('response', ({ ':status': status }) => {
        if (status !== 200) throw new Error(`the server answered ${status}`)
        this.onHead()
      })
      stream.on('data', text => this.onBody(text))
      stream.on('end', () => this.onEnd())
      // Without a listener, the streams of a session that leaves would throw.
      stream.on('error', error => { if (!this.#session.left) throw error })
    })
  }

  leave () {
    this.#session.left = true
    this.#session.destroy()
  }
}
