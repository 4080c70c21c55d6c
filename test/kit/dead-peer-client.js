// Opens a stream of each kind at the servers of dead-peer-server.js, prints `open` when all streams are open, and keeps the streams open.
import { once } from 'node:events'
import http from 'node:http'
import http2 from 'node:http2'

const { HOST } = process.env
const session = http2.connect(`http://${HOST}:3003`)

await Promise.all([
  ...[[3001, 'quiet'], [3001, 'busy'], [3002, 'quiet']].map(async ([port, scope]) => {
    const request = http.get({ host: HOST, port, path: `/${scope}`, headers: { accept: 'text/event-stream' } })
    const [response] = await once(request, 'response')
    response.resume()
  }),
  ...['one', 'two'].map(async scope => {
    const stream = session.request({ ':path': `/${scope}`, accept: 'text/event-stream' })
    await once(stream, 'response')
    stream.resume()
  })
])
console.log('open')
