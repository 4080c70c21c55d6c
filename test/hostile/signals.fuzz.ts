// For any bytes the result is a tab id, no tab id, or a 400, and no prototype changes.
import { readTabId } from '../../lib/http/signals.ts'

export const corpus = ['{"tabId":"a"}', '{"tabId":1}', '[]', '{"__proto__":{"tabId":"a"}}', '{"constructor":{"prototype":{}}}', '{"tabId":"\\ud800"}']

export function fuzz (data: Buffer): void {
  const text = data.toString()
  let body: unknown
  try {
    body = JSON.parse(text)
  } catch {}
  const requests = [
    { method: 'GET', query: { datastar: text }, body: undefined, headers: {} },
    { method: 'POST', query: {}, body, headers: { 'content-type': 'application/json' } },
    { method: 'DELETE', query: body, body: text, headers: { 'content-type': text } }
  ]
  for (const request of requests) {
    try {
      const tabId = readTabId(request, 'tabId')
      if (tabId !== undefined && (typeof tabId !== 'string' || tabId === '' || tabId.length > 128)) throw new Error(`a tab id: ${tabId}`)
    } catch (error) {
      if ((error as { statusCode?: number }).statusCode !== 400) throw error
    }
  }
  if ('tabId' in {} || Object.prototype.hasOwnProperty !== {}.hasOwnProperty) throw new Error('a prototype was changed')
}
