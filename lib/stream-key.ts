// Scope key, tab id and name -> one stream key, canonical and injective.
import { FST_ERR_OCTA_STAR_NAME, FST_ERR_OCTA_STAR_SCOPE_KEY, show } from './errors.ts'
import type { ScopeKey, StreamKey } from '../types/index.ts'

let withoutTab = 0

/**
 * Makes the key under which a stream is registered. Without a tab id every key is another one. `from` is what an error
 * says the scope key was passed to.
 *
 * @throws FST_ERR_OCTA_STAR_SCOPE_KEY, FST_ERR_OCTA_STAR_NAME
 * @example streamKey([user.id, workspace.id], tabId, 'chat')
 */
export function streamKey (scopeKey: ScopeKey, tabId?: string, name?: string, from = 'streamKey'): StreamKey {
  if (name !== undefined && (typeof name !== 'string' || name === '')) throw new FST_ERR_OCTA_STAR_NAME(show(name))
  return { scopeKey, tabId, name, scope: canonical(scopeKey, from), slot: slot(tabId, name) }
}

/** A scope key as a string: equal for equal keys, different for different ones. */
export function canonical (scopeKey: ScopeKey, from: string): string {
  // Most are: nothing is made for them but the result.
  if (typeof scopeKey === 'string') return JSON.stringify(scopeKey)
  return encode(scopeKey, 'it', [])

  function encode (value: unknown, path: string, parents: object[]): string {
    switch (typeof value) {
      case 'string': return JSON.stringify(value)
      case 'boolean': return String(value)
      case 'bigint': return `${value}n`
      // Not JSON.stringify, which makes null of NaN. `String` makes '0' of -0, and the two are equal.
      case 'number': if (Number.isFinite(value)) return String(value); break
      case 'object': if (isCollection(value)) return encodeCollection(value, path, parents)
    }
    throw new FST_ERR_OCTA_STAR_SCOPE_KEY(from, path, show(value))
  }

  function encodeCollection (value: object, path: string, parents: object[]): string {
    if (parents.includes(value)) throw new FST_ERR_OCTA_STAR_SCOPE_KEY(from, path, 'a cycle')
    const lineage = [...parents, value]
    if (Array.isArray(value)) {
      // Array.from, not map: map skips holes, which are undefined.
      return `[${Array.from(value, (item, index) => encode(item, `${path}[${index}]`, lineage)).join()}]`
    }
    const properties = Object.entries(value).sort(([a], [b]) => a < b ? -1 : 1)
    return `{${properties.map(([name, item]) => `${JSON.stringify(name)}:${encode(item, `${path}.${name}`, lineage)}`).join()}}`
  }
}

// Quoted strings cannot be mistaken for each other, for two of them, or for a number.
function slot (tabId: string | undefined, name: string | undefined): string {
  if (tabId === undefined) return String(++withoutTab)
  return name === undefined ? JSON.stringify(tabId) : `${JSON.stringify(tabId)} ${JSON.stringify(name)}`
}

// Plain objects alone: a Date, a Map or a class instance would lose what makes it differ from another.
function isCollection (value: unknown): value is object {
  if (Array.isArray(value)) return true
  if (value === null || Object.getOwnPropertySymbols(value).length > 0) return false
  const prototype = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}
