// octa-star-streams/browser: a tab id that survives navigation and not duplication. Runs in pages; imports nothing.

// A duplicated tab, and a window with an opener, start with a copy of sessionStorage. So the id is not in it while the page
// lives: it is taken out when the page comes, and put back when the page goes, for the next page of the same tab.
// A frame shares its tab's sessionStorage, and has an id of its own.
const KEY = `octa-star-tab-id${globalThis.self === globalThis.top ? '' : ` ${window.name}`}`

const id = take() ?? create()
globalThis.addEventListener?.('pagehide', () => put(id))
// Back from the back/forward cache: the page was not loaded again.
globalThis.addEventListener?.('pageshow', ({ persisted }) => { if (persisted) take() })

/**
 * The id of this browser tab: the same after a navigation, a reload, back and forward; another in a duplicated tab, an
 * opened window and a new tab.
 *
 * @example new EventSource(`/orders?tab=${tabId()}`)
 */
export function tabId (): string {
  return id
}

// Storage throws where cookies are blocked: each page then has an id of its own, and streams without deduplication.
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

// crypto.randomUUID is missing on plain http, save for localhost.
function create (): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, '0')).join('')
}
