// Draws at random the bytes that a hostile client sends on one connection: requests of every shape, complete, malformed, pipelined or cut off.
import type { Random } from './random.ts'

export interface Attack {
  /** The client writes the chunks in this order, with a turn of the event loop between two chunks. */
  chunks: Buffer[]
  /** How many requests the bytes were made from. */
  requests: number
  /** True if the first request is complete, so the server must answer. */
  whole: boolean
  /** True if the client waits for the first response before disconnecting. Otherwise the client disconnects after `turns` turns of the event loop. */
  waits: boolean
  turns: number
  /** True if the client reads the response. */
  reads: boolean
  how: 'destroy' | 'reset' | 'end'
}

const SCOPES = ['ann', 'ann', 'ann', 'bob', '__proto__', '1', '%22ann%22', '%00', 'a%2Fb']
/** The tab ids of the fuzzed scopes and of the bystanders' scope. A request must not reach the bystanders by naming their tab ids. */
const TABS = ['a', 'a', 'a', 'a', 'b', 'b', 'c', 'd', 'bystander 0', 'bystander 1', 'holder', '1', '\u2028', '\ud800', '\u{1f600}', '__proto__', '"a" "b"', 'x'.repeat(128)]
const NO_TABS: unknown[] = [1, 0, -1e308, null, true, '', [], ['a'], {}, { toString: 'a' }, 'x'.repeat(129), 'x'.repeat(5_000)]
const NO_SIGNALS = [
  '', ' ', '{', '}', '[]', '[{"tabId":"a"}]', 'null', 'true', '"a"', '1', 'NaN', 'undefined', '\ufeff{"tabId":"a"}', "{'tabId':'a'}", '{"tabId":"a",}', '{"tabId":"a"}x',
  '{"tabId":"\\ud8"}', '{"tabId":"\t"}', '['.repeat(3_000), '{"a":'.repeat(1_000), '%7B%7D', '\0', '/**/{}'
]
const ODD_SIGNALS = [
  '{"tabId":"a","tabId":"b"}', '{"__proto__":{"tabId":"a"}}', '{"tabId":"a","__proto__":{"x":1}}', '{"constructor":{"prototype":{"tabId":"a"}}}', '{"tabId":"\\ud800"}', '{"\\u0074abId":"a"}',
  '{"toString":1,"hasOwnProperty":1,"tabId":"b"}', '{"tabId":"a","n":1e999}', '{"tabId":"a","deep":' + '['.repeat(500) + ']'.repeat(500) + '}', ' \n{"tabId":"c"}\r\n'
]
const ACCEPTS = [
  '*/*', 'text/*', 'text/html', 'application/json', '', ' ', ',', ';', ';;q', 'text/event-stream;q=0', 'text/event-stream;q=abc', 'text/event-stream; q=0.000', 'text/event-stream, text/event-stream',
  'TEXT/EVENT-STREAM', 'text/event-stream;charset="a,b"', 'text/event-stream\t', 'text/html;q=1,*/*;q=0', `${'a/b,'.repeat(900)}text/event-stream`, '"', '\\', '*', '/', 'text/', '\x80\xff'
]
const LAST_EVENT_IDS = [
  'octa-star-closed:replaced', 'octa-star-closed:evicted', 'octa-star-closed', 'octa-star-closed:', 'octa-star-closed:finished', ' octa-star-closed:replaced ', 'OCTA-STAR-CLOSED:REPLACED',
  'octa-star-closed:replaced, octa-star-closed:replaced', '', '1', '\xe2\x80\xa8', '\xed\xa0\x80', '__proto__', 'x'.repeat(4_000)
]
const CONTENT_TYPES = [
  'application/json', 'application/json; charset=utf-8', 'APPLICATION/JSON', 'application/json;;;', 'application/json; charset=utf-16', 'application/json-patch+json', 'application/jsonp',
  'application/x-www-form-urlencoded', 'text/plain', 'multipart/form-data; boundary=x', 'application/octet-stream', '', ';', '/', 'a', '\xff/\xff', 'text/event-stream', 'x'.repeat(2_000)
]
const ODD_HEADERS = [
  'Connection: close', 'Connection: keep-alive', 'Connection: upgrade\r\nUpgrade: websocket', 'Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__', 'Expect: 100-continue', 'Expect: nothing',
  'Host: other', 'X: \0', 'X : y', ' folded', ': empty', 'X', 'Cookie: a=b; a=c', 'Content-Encoding: gzip', 'Transfer-Encoding: gzip', 'Transfer-Encoding: chunked, identity', 'Content-Length: 1',
  'Content-Length: -1', 'Content-Length: 99999999999999999999', 'Origin: null', `X: ${'y'.repeat(17_000)}`, Array.from({ length: 120 }, (_, i) => `X${i}: y`).join('\r\n'),
  '__proto__: x', 'constructor: x', 'Accept-Version: 1', 'X-HTTP-Method-Override: DELETE', 'Datastar-Request: true'
]
const ESCAPES = ['%', '%%', '%zz', '%u0041', '%00', '%ff', '%ED%A0%80', '%C0%AF', '%F4%90%80%80', '+', '%20', '%0d%0a', '#', '&', ';', '=', '\xff', '\x80']

export function drawAttack (random: Random): Attack {
  const count = random.chance(60) ? 1 + random.below(12) : 1
  // A bad request names the tab of a holder that must survive. The request has a connection to itself, so that no good request touches the holder.
  const requests = random.chance(12) ? [badRequest(random)] : Array.from({ length: count }, () => request(random))
  let bytes: Buffer = Buffer.from(requests.map(({ text }) => text).join(''), 'latin1')
  let whole = requests[0]!.whole
  if (!requests[0]!.bad) {
    if (random.chance(15)) {
      // Cut the bytes off anywhere.
      bytes = bytes.subarray(0, random.below(bytes.length))
      whole = false
    } else if (random.chance(8)) {
      bytes = damaged(random, bytes)
      whole = false
    }
  }
  const chunks: Buffer[] = []
  for (let from = 0, cuts = random.chance(70) ? 0 : random.below(5); from < bytes.length;) {
    const to = cuts-- > 0 ? from + 1 + random.below(bytes.length - from) : bytes.length
    chunks.push(bytes.subarray(from, to))
    from = to
  }
  return { chunks, requests: requests.length, whole, waits: whole && random.chance(75), turns: random.below(12), reads: random.chance(97), how: random.of(['destroy', 'destroy', 'reset', 'reset', 'end']) }
}

/** Describes an attack in a test's message. */
export function describe ({ chunks, ...rest }: Attack): string {
  return `${JSON.stringify(rest)} ${JSON.stringify(Buffer.concat(chunks).toString('latin1').slice(0, 2_000))}`
}

interface Request { text: string, whole: boolean, bad?: boolean }

function request (random: Random): Request {
  const method = random.chance(45) ? 'GET' : random.chance(96) ? random.of(['POST', 'PUT', 'PATCH', 'DELETE', 'HEAD']) : random.of(['OPTIONS', 'TRACE', 'PURGE', 'QUERY', 'get', 'BREW', ''])
  const route = random.chance(98) ? random.of(['only', 'only', 'dual', 'true', 'manual', 'schema', 'schema']) : random.of(['flood', 'none', '..', ''])
  const scope = random.chance(97) ? random.of(SCOPES) : random.of(['', 'x'.repeat(200), ...ESCAPES])
  const headers: string[] = []
  if (random.chance(99)) headers.push('Host: x')
  if (random.chance(85)) headers.push('Accept: text/event-stream')
  else if (random.chance(80)) headers.push(`Accept: ${random.of(ACCEPTS)}`)
  if (random.chance(12)) headers.push(`Last-Event-ID: ${random.of(LAST_EVENT_IDS)}`)
  const odd = random.chance(8)
  if (odd) headers.push(random.of(ODD_HEADERS))
  const withBody = !['GET', 'HEAD'].includes(method) ? random.chance(85) : random.chance(3)
  const head = `${method} /${route}/${scope}${query(random, withBody ? 25 : 85)} ${random.chance(99) ? 'HTTP/1.1' : random.of(['HTTP/1.0', 'HTTP/2.0', 'HTTP/9.9', 'http/1.1', ''])}`
  if (!withBody) return { text: `${head}\r\n${headers.join('\r\n')}\r\n\r\n`, whole: !odd }
  const content = body(random)
  headers.push(...content.headers)
  return { text: `${head}\r\n${headers.join('\r\n')}\r\n\r\n${content.text}`, whole: !odd && content.whole }
}

function signals (random: Random): string {
  const kind = random.below(100)
  if (kind < 72) return JSON.stringify({ ...random.chance(30) ? { term: 'x'.repeat(random.below(12)) } : {}, tabId: random.of(TABS) })
  if (kind < 80) return JSON.stringify({ tabId: random.of(NO_TABS) })
  if (kind < 88) return random.of(ODD_SIGNALS)
  if (kind < 90) return '{}'
  if (kind < 95) return random.of(NO_SIGNALS)
  const text = JSON.stringify({ tabId: random.of(TABS), other: [1, { two: null }] })
  return text.slice(0, random.below(text.length))
}

function query (random: Random, percent: number): string {
  const parts: string[] = []
  if (random.chance(percent)) parts.push(`datastar=${encoded(random, signals(random))}`)
  if (random.chance(4)) parts.push(`datastar=${encoded(random, signals(random))}`)
  if (random.chance(3)) parts.push(random.of(['datastar', 'datastar=', 'datastar[]=a', 'datastar[tabId]=a', 'DATASTAR={}', '__proto__=a', '__proto__[tabId]=a', '=', '&&&', 'a=1;b=2', '?', `x=${'y'.repeat(20_000)}`]))
  if (random.chance(50)) parts.push('stream')
  return parts.length === 0 ? '' : `?${parts.join('&')}`
}

function encoded (random: Random, text: string): string {
  // encodeURIComponent throws at a lone surrogate. A careless encoder sends three bytes instead, so send these.
  const escaped = text.replaceAll(/[^\w.~-]/gu, character => character >= '\ud800' && character <= '\udfff' ? '%ED%A0%80' : encodeURIComponent(character))
  if (!random.chance(5)) return escaped
  const at = random.below(escaped.length + 1)
  return escaped.slice(0, at) + random.of(ESCAPES) + escaped.slice(at)
}

function body (random: Random): { headers: string[], text: string, whole: boolean } {
  const type = random.chance(80) ? 'application/json' : random.of(CONTENT_TYPES)
  let text = random.chance(90) ? utf8(signals(random)) : random.of(['tabId=a', 'datastar={}&tabId=a', '--x\r\n\r\n--x--', '\xff\xfe{\0', '', '\x1f\x8b\x08'])
  // Bodies just below, just above, and far above Fastify's default bodyLimit of 1 MiB. Large bodies are rare, because they cost the most time.
  if (random.below(500) === 0) text = `{"tabId":"a","big":"${'x'.repeat(random.of([1_048_552, 1_048_560, 1_200_000]))}"}`
  const headers = random.chance(97) ? [`Content-Type: ${type}`] : random.of([[], ['Content-Type: application/json', 'Content-Type: text/plain']])
  const framing = random.below(100)
  if (framing < 75) return { headers: [...headers, `Content-Length: ${text.length}`], text, whole: true }
  const chunked = `${text.length === 0 ? '' : `${text.length.toString(16)}\r\n${text}\r\n`}0\r\n\r\n`
  if (framing < 90) return { headers: [...headers, 'Transfer-Encoding: chunked'], text: chunked, whole: true }
  const odd: Array<[string[], string]> = [
    [[`Content-Length: ${text.length + 1 + random.below(100)}`], text],
    [[`Content-Length: ${random.below(text.length + 1)}`], text],
    [['Content-Length: 1', 'Content-Length: 2'], text],
    [[`Content-Length: ${text.length}`, 'Transfer-Encoding: chunked'], chunked],
    [['Transfer-Encoding: chunked'], `zz\r\n${text}`],
    [['Transfer-Encoding: chunked'], `${'f'.repeat(20)}\r\n${text}`],
    [['Transfer-Encoding: chunked', 'Trailer: Accept'], chunked.replace('0\r\n\r\n', '0\r\nAccept: x\r\n\r\n')],
    [[], text]
  ]
  const [framed, sent] = random.of(odd)
  return { headers: [...headers, ...framed], text: sent, whole: false }
}

/** A request that names the holder's tab in the holder's scope and must not replace the holder: refused, incomplete, or a HEAD request. */
function badRequest (random: Random): Request {
  const good = encodeURIComponent('{"tabId":"holder"}')
  const json = '{"tabId":"holder"}'
  const get = (query: string, headers: string[] = [], method = 'GET') => [`${method} /only/holder?${query} HTTP/1.1`, 'Host: x', ...headers, '', ''].join('\r\n')
  const post = (text: string, headers: string[] = [], length = text.length, route = 'schema') => [`POST /${route}/holder HTTP/1.1`, 'Host: x', `Content-Length: ${length}`, ...headers, '', text].join('\r\n')
  const JSON_TYPE = 'Content-Type: application/json'
  const whole = [
    () => get(`datastar=${good}&datastar=${good}`),
    () => get(`datastar=${good.slice(0, random.below(good.length))}`),
    () => get(`datastar=${encodeURIComponent(random.of(NO_SIGNALS))}`),
    () => get(`datastar=${encodeURIComponent(JSON.stringify({ tabId: random.of(NO_TABS) }).slice(0, 3_000))}`),
    () => get(`datastar=${good}`, ['Accept: application/json']),
    () => get(`datastar=${good}`, ['Accept: text/event-stream;q=0']),
    () => get(`datastar=${good}`, ['Last-Event-ID: octa-star-closed:replaced:4102444800000']),
    () => get(`datastar=${good}`, ['Last-Event-ID:  octa-star-closed:evicted:4102444800000  ']),
    () => get(`datastar=${good}`, [], 'HEAD'),
    () => get(`datastar=${good}`, ['Content-Length: 1', 'Content-Length: 2']),
    () => get(`datastar=${good}`, [`X: ${'y'.repeat(17_000)}`]),
    () => get(`datastar=${good}`, ['Expect: nothing']),
    () => post(`{"tabId":"holder","term":"${'x'.repeat(9)}"}`, [JSON_TYPE]),
    () => post(json, ['Content-Type: text/xml']),
    () => post(json.slice(0, -1 - random.below(10)), [JSON_TYPE], undefined, 'only'),
    () => post('["holder"]', [JSON_TYPE], undefined, 'only'),
    () => post('{"tabId":"holder","__proto__":{}}', [JSON_TYPE], undefined, 'only')
  ]
  const broken = [
    // Cut off before the end, in the head or in the body.
    () => get(`datastar=${good}`).slice(0, -1 - random.below(30)),
    () => post(json, [JSON_TYPE], json.length + 1, 'only'),
    () => post(json.slice(0, random.below(json.length)), [JSON_TYPE], json.length, 'only')
  ]
  const isWhole = random.chance(70)
  return { text: random.of(isWhole ? whole : broken)(), whole: isWhole, bad: true }
}

function damaged (random: Random, bytes: Buffer): Buffer {
  const [from, to] = [random.below(bytes.length), random.below(bytes.length)].sort((a, b) => a - b) as [number, number]
  switch (random.below(4)) {
    case 0: {
      const copy = Buffer.from(bytes)
      for (let i = 1 + random.below(4); i > 0; i--) copy[random.below(copy.length)] = random.below(256)
      return copy
    }
    case 1: return Buffer.concat([bytes.subarray(0, from), bytes.subarray(to)])
    case 2: return Buffer.concat([bytes.subarray(0, to), bytes.subarray(from)])
    default: return Buffer.concat([bytes.subarray(0, from), Buffer.from(Array.from({ length: 1 + random.below(20) }, () => random.below(256))), bytes.subarray(from)])
  }
}

function utf8 (text: string): string {
  return Buffer.from(text).toString('latin1')
}
