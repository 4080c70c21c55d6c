// Stream keys: equal for equal parts, different for different parts, and an error for values that cannot be an identity.
import fc from 'fast-check'
import t from 'tap'
import { keyFor, streamKey } from '../lib/registry/stream-key.ts'
import type { ScopeKey } from '../lib/index.ts'
import { decodeScope, decodeSlot, same } from './kit/decode-key.ts'
import { seeded } from './kit/seed.ts'

const key = (scopeKey: unknown, tabId?: string, name?: string) => {
  const { scope, slot } = streamKey(scopeKey as ScopeKey, tabId, name)
  return JSON.stringify([scope, slot])
}

const scopeKeys = fc.letrec<{ value: ScopeKey }>(tie => ({
  value: fc.oneof(
    { maxDepth: 3 },
    fc.string(), fc.string({ unit: 'binary' }), fc.integer(), fc.double({ noNaN: true, noDefaultInfinity: true }), fc.bigInt(), fc.boolean(),
    fc.constantFrom<ScopeKey>('1', 1, 1n, true, 'true', '1n', '[]', [], {}, [[]], '["1"]', ['1'], [1], '__proto__', ['a,b'], ['a', 'b']),
    fc.array(tie('value'), { maxLength: 3 }),
    fc.dictionary(fc.oneof(fc.string(), fc.constantFrom('__proto__', 'constructor', 'a":1,"b')), tie('value'), { maxKeys: 3 })
  )
})).value

t.test('two scope keys have the same scope if and only if they are equal by value', async t => {
  fc.assert(fc.property(scopeKeys, scopeKeys, (a, b) => (streamKey(a).scope === streamKey(b).scope) === same(a, b)), { ...seeded(import.meta.url), numRuns: 20_000 })
  fc.assert(fc.property(scopeKeys, a => streamKey(a).scope === streamKey(structuredClone(a)).scope), { ...seeded(import.meta.url), numRuns: 5_000 })
  t.pass()
})

t.test('a stream key is injective in scope key, tab id and name', async t => {
  const part = fc.oneof(fc.string({ minLength: 1 }), fc.constantFrom('a', '"', '" "', 'a" "b', '\\', '\n', '1', '\ud800', '\udfff', '\\ud800'))
  const parts = fc.tuple(fc.oneof(part, fc.integer({ max: 3 })), part, fc.option(part, { nil: undefined }))
  fc.assert(fc.property(parts, parts, (a, b) => (key(...a) === key(...b)) === a.every((value, i) => value === b[i])), { ...seeded(import.meta.url), numRuns: 20_000 })
  t.pass()
})

t.test('a stream key can be decoded to its scope key, tab id and name, so no two combinations share a key', async t => {
  const text = fc.oneof(fc.string({ minLength: 1 }), fc.string({ unit: 'binary', minLength: 1 }), fc.constantFrom('"', '" "', 'a" "b', '\\', '\\"', '\ud800', '\\ud800', '1', '1n', '[', '{}'))
  fc.assert(fc.property(scopeKeys, text, fc.option(text, { nil: undefined }), (scopeKey, tabId, name) => {
    const { scope, slot } = streamKey(scopeKey, tabId, name)
    const [decodedTabId, decodedName] = decodeSlot(slot)
    return same(decodeScope(scope), scopeKey) && decodedTabId === tabId && decodedName === name
  }), { ...seeded(import.meta.url), numRuns: 20_000 })
  // Without a tab id each slot is a new number, which no tab id can produce.
  fc.assert(fc.property(scopeKeys, fc.option(text, { nil: undefined }), (scopeKey, name) => /^\d+$/.test(streamKey(scopeKey, undefined, name).slot)), seeded(import.meta.url))
  t.pass()
})

t.test('examples of equal and of different keys', async t => {
  t.equal(key([1, 'a'], 't'), key([1, 'a'], 't'))
  t.equal(key({ a: 1, b: 2 }, 't'), key({ b: 2, a: 1 }, 't'))
  t.equal(key(0, 't'), key(-0, 't'))
  t.not(key(1, 't'), key('1', 't'))
  t.not(key(1, 't'), key(1n, 't'))
  t.not(key('u', 't'), key('u', 't', 'chat'))
  t.not(key('u'), key('u'), 'without a tab id every key is new')
  t.equal(key(Object.assign(Object.create(null), { a: 1 }), 't'), key({ a: 1 }, 't'))
})

t.test('a value that cannot be an identity is an error that names the value, its place in the key, and the caller', async t => {
  const cycle: unknown[] = []
  cycle.push({ self: cycle })
  const cases: Array<[unknown, string]> = [
    [undefined, 'it is undefined'],
    [null, 'it is null'],
    [NaN, 'it is NaN'],
    [Infinity, 'it is Infinity'],
    [() => {}, 'it is a function'],
    [Symbol('s'), 'it is a symbol'],
    [new Date(), 'it is an instance of Date'],
    [new Map(), 'it is an instance of Map'],
    [new (class {})(), 'it is an instance of'],
    [{ [Symbol('s')]: 1 }, 'it is an object'],
    [['a', undefined], 'it[1] is undefined'],
    // eslint-disable-next-line no-sparse-arrays
    [['a', , 'b'], 'it[1] is undefined'],
    [{ user: { id: null } }, 'it.user.id is null'],
    [cycle, 'it[0].self is a cycle'],
    [Object.create({ id: 1 }), 'it is an instance of Object'],
    [Object.create(Object.create(null)), 'it is an instance of a class']
  ]
  for (const [scopeKey, description] of cases) {
    t.throws(() => keyFor('startStream in GET /x', scopeKey as ScopeKey, 't', undefined), {
      code: 'FST_ERR_OCTA_STAR_SCOPE_KEY', statusCode: 500, message: new RegExp(`passed to startStream in GET /x must be.*${description.replaceAll(/[[\].]/g, '\\$&')}`)
    })
  }
  const shared = { id: 1 }
  t.equal(key([shared, shared], 't'), key([{ id: 1 }, { id: 1 }], 't'), 'an object that occurs twice is not a cycle')
})

t.test('a name that is not a string, or is empty, is an error', async t => {
  for (const name of ['', 1, null]) t.throws(() => streamKey('u', 't', name as string), { code: 'FST_ERR_OCTA_STAR_NAME' })
})
