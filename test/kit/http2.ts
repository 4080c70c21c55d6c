// An app that speaks HTTP/2, in the clear or over TLS, and clients that open several streams in one session.
import { once } from 'node:events'
import http2, { type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2'
import type { FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import { buildApp, withSignals, type App, type AppOptions } from './app.ts'
import { makeCertificate, withoutOpenssl } from './certificate.ts'

export type Transport = 'in the clear' | 'over TLS'

/** Options for `t.test`: skip if TLS needs openssl and openssl is missing. On CI no test is skipped. */
export function transportOptions (transport: Transport) {
  return { skip: transport === 'over TLS' && withoutOpenssl }
}

export interface Http2App extends App {
  /** Opens a session with the server. The session is closed when the test ends. */
  session: () => ClientHttp2Session
}

export interface Http2Client extends ClientHttp2Stream {
  /** The body so far. */
  text: string
}

/** Like `buildApp`, with HTTP/2. Over TLS the app also speaks HTTP/1.1. */
export async function http2App (t: Test, transport: Transport, options: AppOptions = {}): Promise<Http2App> {
  const https = transport === 'over TLS' ? { allowHTTP1: true, ...makeCertificate() } : undefined
  const server = { http2: true, https, forceCloseConnections: true, ...options.fastify }
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

/** Opens a stream for `tabId` in `session`, and resolves when the head of the response has arrived. */
export async function openIn (session: ClientHttp2Session, tabId: string, path = '/stream/ann'): Promise<Http2Client> {
  const client = Object.assign(session.request({ ':path': withSignals(path, { tabId }), accept: 'text/event-stream' }), { text: '' })
  client.setEncoding('utf8').on('data', data => { client.text += data }).on('error', () => {})
  await once(client, 'response')
  return client
}

/** Resolves when the body contains `text`. */
export async function received (client: Http2Client, text: string): Promise<void> {
  while (!client.text.includes(text)) await once(client, 'data')
}
