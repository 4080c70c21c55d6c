// Combines a scope key, a tab id and a name into a canonical and injective stream key.
import { FST_ERR_OCTA_STAR_NAME, FST_ERR_OCTA_STAR_SCOPE_KEY, show } from '../errors.ts'
import type { ScopeKey, ScopeKeyLike, StreamKey } from '../../types/stream.ts'

let keysWithoutTab = 0

/**
 * Makes the key under which a holder is registered. Without a tab id every call makes a different key.
 *
 * @throws FST_ERR_OCTA_STAR_SCOPE_KEY, FST_ERR_OCTA_STAR_NAME
 * @example const key = streamKey([user.id, workspace.id], tabId, 'chat')
 */
export function streamKey<T> (scopeKey: ScopeKeyLike<T>, tabId?: string, name?: string): StreamKey {
  return keyFor('streamKey', scopeKey as ScopeKey, tabId, name)
}

/** As {@link streamKey}. `from` names the caller in error messages. */
export function keyFor (from: string, scopeKey: ScopeKey, tabId: string | undefined, name: string | undefined): StreamKey {
  if (name !== undefined && (typeof name !== 'string' || name === '')) throw new FST_ERR_OCTA_STAR_NAME(show(name))
  return { scopeKey, tabId, name, scope: canonical(scopeKey, from), slot: slot(tabId, name) }
}

/** Encodes a scope key as a string: the same string for equal keys, different strings for different keys. */
export function canonical (scopeKey: ScopeKey, from: string): string {
  // Most scope keys are strings, which need no closure.
  return typeof scopeKey === 'string' ? JSON.stringify(scopeKey) : encodeScopeKey(scopeKey, from)
}

function encodeScopeKey (scopeKey: ScopeKey, from: string): string {
  return encode(scopeKey, 'it', [])

  function encode (value: unknown, path: string, parents: object[]): string {
    switch (typeof value) {
      case 'string': return JSON.stringify(value)
      case 'boolean': return String(value)
      case 'bigint': return `${value}n`
      // JSON.stringify would encode NaN as null. `String` encodes -0 as '0', and the two numbers are equal.
      case 'number': if (Number.isFinite(value)) return String(value); break
      case 'object': if (isCollection(value)) return encodeCollection(value, path, parents)
    }
    throw new FST_ERR_OCTA_STAR_SCOPE_KEY(from, path, show(value))
  }

  function encodeCollection (value: object, path: string, parents: object[]): string {
    if (parents.includes(value)) throw new FST_ERR_OCTA_STAR_SCOPE_KEY(from, path, 'a cycle')
    const lineage = [...parents, value]
    if (Array.isArray(value)) {
      // `map` would skip holes, which must be refused like `undefined`.
      return `[${Array.from(value, (item, index) => encode(item, `${path}[${index}]`, lineage)).join()}]`
    }
    const properties = Object.entries(value).sort(([a], [b]) => a < b ? -1 : 1)
    return `{${properties.map(([name, item]) => `${JSON.stringify(name)}:${encode(item, `${path}.${name}`, lineage)}`).join()}}`
  }
}

/** Decodes what {@link canonical} has encoded. */
export function scopeKeyOf (scope: string): ScopeKey {
  // Marks each string with an `s`, and turns a bigint into a string marked with an `n`, so that JSON.parse can read the text.
  const json = scope.replace(/"((?:[^"\\]|\\.)*)"|(-?\d+)n/g, (_match, text, integer) => integer === undefined ? `"s${text}"` : `"n${integer}"`)
  return JSON.parse(json, (_name, value) => {
    if (typeof value === 'string') return value.startsWith('n') ? BigInt(value.slice(1)) : value.slice(1)
    if (typeof value !== 'object' || Array.isArray(value)) return value
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name.slice(1), item]))
  })
}

// Quoting keeps a tab id apart from a number, and a tab id with a name apart from a tab id that contains a space.
function slot (tabId: string | undefined, name: string | undefined): string {
  if (tabId === undefined) return String(++keysWithoutTab)
  return name === undefined ? JSON.stringify(tabId) : `${JSON.stringify(tabId)} ${JSON.stringify(name)}`
}

// Only plain objects and arrays: two different Dates, Maps or class instances could get the same key.
function isCollection (value: unknown): value is object {
  if (Array.isArray(value)) return true
  if (value === null || Object.getOwnPropertySymbols(value).length > 0) return false
  const prototype = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}
