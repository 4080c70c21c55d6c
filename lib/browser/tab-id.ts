// octa-star-streams/browser: a tab id that survives navigation but not duplication. Runs in pages and imports nothing.

// A duplicated tab, and a window that has an opener, start with a copy of sessionStorage:
// https://html.spec.whatwg.org/multipage/webstorage.html#dom-sessionstorage
// Therefore the id is in sessionStorage only between two pages: a page takes the id out when it loads, and puts the id back
// when the page is left. A frame shares the tab's sessionStorage, but gets an id of its own.
const KEY = `octa-star-tab-id${globalThis.self === globalThis.top ? '' : ` ${window.name}`}`

const id = take() ?? create()
globalThis.addEventListener?.('pagehide', () => put(id))
// A page that comes back from the back/forward cache is not loaded again.
globalThis.addEventListener?.('pageshow', ({ persisted }) => { if (persisted) take() })

/**
 * Returns the id of this browser tab. The id stays the same after navigation, reload, back and forward. A duplicated tab, an
 * opened window and a new tab have ids of their own.
 *
 * @example new EventSource(`/orders?tab=${tabId()}`)
 */
export function tabId (): string {
  return id
}

// Storage throws if cookies are blocked. Each page then has an id of its own, and its streams are not deduplicated.
function take (): string | undefined {
  try {
    const taken = sessionStorage.getItem(KEY)
    sessionStorage.removeItem(KEY)
    return taken ?? undefined
  } catch {}
}

function put (value: string): void {
  try {
    sessionStorage.setItem(KEY, value)
  } catch {}
}

// crypto.randomUUID exists only in secure contexts: https://w3c.github.io/webcrypto/#Crypto-method-randomUUID
function create (): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, '0')).join('')
}
