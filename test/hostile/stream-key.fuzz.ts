// Makes a scope key, a tab id and a name from any bytes. The stream key can be decoded to these values, so no two values share a key.
import { streamKey } from '../../lib/registry/stream-key.ts'
import { decodeScope, decodeSlot, same } from '../kit/decode-key.ts'
import type { ScopeKey } from '../../types/index.ts'

export const corpus = ['["a",1]\0tab\0name', '{"a":{"b":[true]}}\0tab\0', '"n123"\0"\0" "', '-1.5e300\0\\\0\\']

export function fuzz (data: Buffer): void {
  // UTF-16 can contain lone surrogates, and UTF-8 cannot.
  for (const text of [data.toString(), data.toString('utf16le')]) {
    const [json = '', tabId = '', name = ''] = text.split('\0')
    const scopeKey = read(json)
    if (tabId === '') continue
    const { scope, slot } = streamKey(scopeKey, tabId, name === '' ? undefined : name)
    const [decodedTabId, decodedName = ''] = decodeSlot(slot)
    if (!same(decodeScope(scope), scopeKey) || decodedTabId !== tabId || decodedName !== name) throw new Error(`no way back from ${scope} ${slot}`)
  }
}

/** Parses JSON. A string of n and digits becomes a bigint, and null becomes -0. Returns the text itself if the text is not JSON. */
function read (json: string): ScopeKey {
  try {
    return JSON.parse(json, (_name, value) => value === null || value === Infinity || value === -Infinity ? -0 : /^n\d+$/.test(String(value)) ? BigInt(String(value).slice(1)) : value)
  } catch {
    return json
  }
}
