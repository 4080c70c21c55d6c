// Reads the Datastar signals and the tab id from a request.
import sjson from 'secure-json-parse'
import { FST_ERR_OCTA_STAR_SIGNALS, FST_ERR_OCTA_STAR_TAB_ID, show } from '../errors.ts'

const MAX_TAB_ID = 128

export type Signals = Readonly<Record<string, unknown>>

interface SignalsRequest {
  readonly method: string
  readonly query: unknown
  readonly body: unknown
  readonly headers: { readonly 'content-type'?: string }
}

/**
 * Returns the signals where Datastar puts them: in the query parameter `datastar` for GET and DELETE, and in the JSON body for
 * every other method. Datastar before 1.0 sends them in the body of a DELETE too. Returns `undefined` if there are none, for
 * example from a form.
 *
 * https://github.com/starfederation/datastar/blob/main/sdk/ADR.md#readsignals
 *
 * @throws FST_ERR_OCTA_STAR_SIGNALS
 */
export function readSignals (request: SignalsRequest, parseJson: (text: string) => unknown = parseSafely): Signals | undefined {
  const { method } = request
  if (method === 'GET' || method === 'HEAD' || method === 'DELETE') {
    const query = (request.query as { datastar?: unknown } | undefined)?.datastar
    if (query !== undefined) return parse(query, parseJson)
    if (method !== 'DELETE') return undefined
  }

  const { body } = request
  // Fastify has parsed the body. A form's fields are parsed into an object too, but they are not signals.
  if (body === undefined || body === null || !isJson(request.headers['content-type'])) return undefined
  if (!isObject(body)) throw new FST_ERR_OCTA_STAR_SIGNALS('body', show(body))
  return body
}

/**
 * Returns the tab id: the value of the signal named `signal`. Returns `undefined` if the request has no such signal.
 *
 * @throws FST_ERR_OCTA_STAR_SIGNALS, FST_ERR_OCTA_STAR_TAB_ID
 */
export function readTabId (request: SignalsRequest, signal: string): string | undefined {
  // A single property is read and the object is dropped, so a property such as `__proto__` does no harm.
  const signals = readSignals(request, JSON.parse)
  // `hasOwn`, because every object inherits properties, for example `toString`.
  return checkTabId(signals !== undefined && Object.hasOwn(signals, signal) ? signals[signal] : undefined)
}

/** @throws FST_ERR_OCTA_STAR_TAB_ID unless `value` is `undefined` or a tab id */
export function checkTabId (value: unknown): string | undefined {
  if (value === undefined) return undefined
  if (typeof value !== 'string' || value === '' || value.length > MAX_TAB_ID) throw new FST_ERR_OCTA_STAR_TAB_ID(show(value))
  return value
}

// The application may copy the signals to another object.
function parseSafely (text: string): unknown {
  return sjson.parse(text, undefined, { protoAction: 'remove', constructorAction: 'remove' })
}

function parse (text: unknown, parseJson: (text: string) => unknown): Signals {
  // A parameter that is given twice is parsed into an array.
  if (typeof text !== 'string') throw new FST_ERR_OCTA_STAR_SIGNALS('query', `${show(text)} of parameters`)
  let signals: unknown
  try {
    signals = parseJson(text)
  } catch {
    throw new FST_ERR_OCTA_STAR_SIGNALS('query', 'malformed JSON')
  }
  if (!isObject(signals)) throw new FST_ERR_OCTA_STAR_SIGNALS('query', show(signals))
  return signals
}

function isObject (value: unknown): value is Signals {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isJson (contentType: string | undefined): boolean {
  return contentType !== undefined && /^application\/json *(;|$)/i.test(contentType)
}
