// From a request to the tab id: the signals that Datastar sends, and anything else that a client can send.
import fc from 'fast-check'
import t from 'tap'
import { checkTabId, readSignals, readTabId } from '../lib/http/signals.ts'
import { seeded } from './kit/seed.ts'

const get = (datastar?: unknown, method = 'GET') => ({ method, query: datastar === undefined ? {} : { datastar }, body: undefined, headers: {} })
const post = (body: unknown, type = 'application/json', method = 'POST') => ({ method, query: {}, body, headers: { 'content-type': type } })

t.test('signals come from the query of a GET or DELETE, from the JSON body of any other method, and from the body of an old DELETE', async t => {
  t.strictSame(readSignals(get('{"tabId":"a"}')), { tabId: 'a' })
  t.strictSame(readSignals(post({ tabId: 'a' })), { tabId: 'a' })
  t.strictSame(readSignals(post({ tabId: 'a' }, 'application/json; charset=utf-8')), { tabId: 'a' })
  t.strictSame(readSignals(post({ tabId: 'a' }, 'Application/JSON ;charset=utf-8')), { tabId: 'a' })
  for (const [method, tabId] of [['GET', 'query'], ['HEAD', 'query'], ['DELETE', 'query'], ['POST', 'body'], ['PUT', 'body'], ['PATCH', 'body']] as const) {
    t.strictSame(readSignals({ ...post({ tabId: 'body' }), method, query: { datastar: '{"tabId":"query"}' } }), { tabId }, method)
  }
  t.strictSame(readSignals(post({ tabId: 'a' }, undefined, 'DELETE')), { tabId: 'a' }, 'as Datastar sent it before 1.0')
  t.equal(readSignals(post({ tabId: 'a' }, undefined, 'GET')), undefined)
  t.equal(readSignals(get('{', 'POST')), undefined, 'the query of a POST is not read')
  t.equal(readSignals(get()), undefined)
  t.equal(readSignals({ method: 'GET', query: undefined, body: undefined, headers: {} }), undefined)
  t.equal(readSignals(post(null)), undefined)
  t.equal(readSignals(post([{ op: 'add' }], 'application/json-patch+json')), undefined, 'another type of content')
  t.equal(readSignals(post({ tabId: 'a' }, 'application/x-www-form-urlencoded')), undefined, 'a form\'s fields are not signals')
  t.equal(readSignals({ method: 'POST', query: {}, body: { tabId: 'a' }, headers: {} }), undefined)
})

t.test('malformed JSON, or JSON that is not an object, is answered with a 400 that says which', async t => {
  const cases: Array<[Parameters<typeof readSignals>[0], RegExp]> = [
    [get(''), /in the query must be a JSON object, got malformed JSON/],
    [get('{'), /malformed JSON/],
    [get('tabId'), /malformed JSON/],
    [get('[]'), /got an array/],
    [get('null'), /got null/],
    [get('"a"'), /got "a"/],
    [get('1'), /got 1/],
    [get(['{}', '{}']), /got an array of parameters/],
    [post(['a']), /in the body must be a JSON object, got an array/],
    [post('a'), /got "a"/],
    [post(true), /got true/]
  ]
  for (const [request, message] of cases) t.throws(() => readSignals(request), { code: 'FST_ERR_OCTA_STAR_SIGNALS', statusCode: 400, message })
})

t.test('a tab id that is not a string, is empty, or is longer than 128 characters is answered with a 400 that says which', async t => {
  for (const [value, message] of [[1, /got 1$/], [null, /got null/], ['', /got ""/], [['a'], /got an array/], [{}, /got an object/], ['x'.repeat(129), /got a string of 129 characters/]] as const) {
    t.throws(() => readTabId(get(JSON.stringify({ tabId: value })), 'tabId'), { code: 'FST_ERR_OCTA_STAR_TAB_ID', statusCode: 400, message })
  }
  t.equal(readTabId(get(JSON.stringify({ tabId: 'x'.repeat(128) })), 'tabId'), 'x'.repeat(128))
  t.equal(checkTabId(undefined), undefined)
})

t.test('a missing tab id is no error, whatever the signal is called', async t => {
  t.equal(readTabId(get(), 'tabId'), undefined)
  for (const signal of ['tabId', 'toString', 'constructor', '__proto__', 'hasOwnProperty']) t.equal(readTabId(get('{"other":1}'), signal), undefined)
})

t.test('__proto__ and a constructor with a prototype are dropped', async t => {
  const signals = readSignals(get('{"tabId":"a","__proto__":{"admin":true},"constructor":{"prototype":{"admin":true}}}')) as Record<string, unknown>
  t.strictSame(Object.getOwnPropertyNames(signals), ['tabId'])
  t.notOk('admin' in signals)
  t.equal(readTabId(get('{"__proto__":{"tabId":"a"}}'), 'tabId'), undefined)
})

t.test('any request yields a tab id, no tab id, or a 400', async t => {
  const tabIdOr400 = (request: Parameters<typeof readSignals>[0]) => {
    try {
      const tabId = readTabId(request, 'tabId')
      return tabId === undefined || (tabId.length > 0 && tabId.length <= 128)
    } catch (error) {
      return (error as { statusCode: number }).statusCode === 400
    }
  }
  const json = fc.oneof(fc.json(), fc.record({ tabId: fc.anything() }).map(value => JSON.stringify(value)), fc.string())
  fc.assert(fc.property(fc.oneof(json, fc.anything()), value => tabIdOr400(get(value))), { ...seeded(import.meta.url), numRuns: 5_000 })
  fc.assert(fc.property(fc.oneof(fc.record({ tabId: fc.anything() }), fc.anything()), fc.string(), (body, type) => tabIdOr400(post(body, type)) && tabIdOr400(post(body))), { ...seeded(import.meta.url), numRuns: 5_000 })
  t.pass()
})
