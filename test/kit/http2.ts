// A Fastify that speaks HTTP/2, in the clear or over TLS, and clients that open several streams in one session.
import { once } from 'node:events'
import http2, { type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2'
import type { FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import { buildApp, withSignals, type App, type AppOptions } from './app.ts'
import { makeCertificate, withoutOpenssl } from './certificate.ts'

export type Transport = 'in the clear' | 'over TLS'

/** What a test file passes to t.test: a reason to skip, unless CI asks for all. */
export function transportOptions (transport: Transport) {
  return { skip: transport === 'over TLS' && withoutOpenssl }
}

export interface Http2App extends App {
  /** A new session with the server, closed when the test ends. */
  session: () => ClientHttp2Session
}

export interface Http2Client extends ClientHttp2Stream {
  /** All of the body so far. */
  text: string
}

/** As `buildApp`; HTTP/1.1 is spoken as well, over TLS. */
export async function http2App (t: Test, transport: Transport, options: AppOptions = {}): Promise<Http2App> {
  const https = transport === 'over TLS' ? { allowHTTP1: true, ...makeCertificate() } : undefined
  const server = { http2: true, https, forceCloseConnections: true }
  const app = await buildApp(t, { ...options, fastify: server as FastifyServerOptions })
  const origin = () => `${transport === 'over TLS' ? 'https' : 'http'}://127.0.0.1:${app.port()}`
  return Object.assign(app, {
    url: (path: string) => origin() + path,
    session () {
      const session = http2.connect(origin(), { rejectUnauthorized: false })
      session.on('error', () => {})
      t.teardown(() => session.destroy())
      return session
    }
  })
}

/** Opens a stream of `tabId` in `session`, and resolves when its head is there. */
export async function openIn (session: ClientHttp2Session, tabId: string, path = '/stream/ann'): Promise<Http2Client> {
  const client = Object.assign(session.request({ ':path': withSignals(path, { tabId }), accept: 'text/event-stream' }), { text: '' })
  client.setEncoding('utf8').on('data', data => { client.text += data }).on('error', () => {})
  await once(client, 'response')
  return client
}

/** Resolves when `text` has come. */
export async function received (client: Http2Client, text: string): Promise<void> {
  while (!client.text.includes(text)) await once(client, 'data')
}
