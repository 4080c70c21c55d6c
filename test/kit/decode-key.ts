// Decodes a stream key to the original values. If every key can be decoded, no two different values share a key.
import type { ScopeKey } from '../../types/index.ts'

/** Compares two scope keys by value, without the encoding under test. */
export function same (a: ScopeKey, b: ScopeKey): boolean {
  if (typeof a !== 'object' || typeof b !== 'object') return a === b
  if (Array.isArray(a) || Array.isArray(b)) return Array.isArray(a) && Array.isArray(b) && a.length === b.length && a.every((item, i) => same(item, b[i]!))
  const [left, right] = [Object.entries(a), new Map(Object.entries(b))]
  return left.length === right.size && left.every(([property, value]) => right.has(property) && same(value, right.get(property)!))
}

/** Decodes a scope to the scope key. */
export function decodeScope (scope: string): ScopeKey {
  const token = /"(?:[^"\\]|\\.)*"|-?\d+n|-?\d+(?:\.\d+)?(?:e[+-]\d+)?|true|false|[[\]{},:]/y
  const tokens: string[] = []
  for (let match; token.lastIndex < scope.length; tokens.push(match[0])) {
    match = token.exec(scope)
    if (match === null) throw new Error(`not a scope: ${scope}`)
  }
  const next = () => tokens.shift()!
  const take = (expected: string) => { if (next() !== expected) throw new Error(`expected ${expected} in the scope ${scope}`) }
  const list = (end: string, item: () => void) => {
    if (tokens[0] !== end) for (item(); tokens[0] === ','; item()) next()
    take(end)
  }
  const value = (): ScopeKey => {
    const first = next()
    if (first === '[') {
      const items: ScopeKey[] = []
      list(']', () => items.push(value()))
      return items
    }
    if (first === '{') {
      const properties: Array<[string, ScopeKey]> = []
      list('}', () => {
        const name = JSON.parse(next())
        take(':')
        properties.push([name, value()])
      })
      return Object.fromEntries(properties)
    }
    return first.endsWith('n') ? BigInt(first.slice(0, -1)) : JSON.parse(first)
  }
  const scopeKey = value()
  if (tokens.length > 0) throw new Error(`text after the end of the scope: ${scope}`)
  return scopeKey
}

/** Decodes a slot to the tab id and the name. Only for slots with a tab id. */
export function decodeSlot (slot: string): [tabId: string, name: string | undefined] {
  const [, tabId, name] = /^("(?:[^"\\]|\\.)*")(?: ("(?:[^"\\]|\\.)*"))?$/.exec(slot)!
  return [JSON.parse(tabId!), name === undefined ? undefined : JSON.parse(name)]
}
