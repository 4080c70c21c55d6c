// octa-star-streams/browser: a tab id that survives navigation but not duplication. Runs in pages, imports nothing, and is written to be small.

// The id is in sessionStorage, which follows the tab. But a duplicated tab, and a window that has an opener, start with a copy:
// https://html.spec.whatwg.org/multipage/webstorage.html#dom-sessionstorage
// Therefore localStorage, which all tabs share, says which ids are free. A page that is left makes the id free. The next
// page of the tab takes the id, so that the id is not free any more. A copy that comes later finds that the id is taken, and makes an id of its own.
//   sessionStorage  octa-star-tab-id       '<id> <page>': the page took the id last
//   localStorage    octa-star-tab-id<id>   since when the id is free, if the id is free
const NAME = 'octa-star-tab-id'

// TypeScript does not know the Navigation API yet.
interface Entry { key: string }
interface Page {
  [shared: symbol]: (() => string) | undefined
  navigation?: { activation?: { from?: Entry }, currentEntry: Entry }
}

// All copies of this module in a page share an id.
const sharedId = (globalThis as unknown as Page)[Symbol.for(NAME)] ??= globalThis.document && start()

/**
 * Returns the id of this browser tab. The id stays the same after navigation, reload, back and forward. A duplicated tab, an
 * opened window and a new tab have ids of their own. While a page is prerendered, it has another id.
 *
 * @example new EventSource(`/orders?tab=${tabId()}`)
 */
export function tabId (): string {
  if (!sharedId) throw Error('No tab: call tabId() in a page')
  return sharedId()
}

function start (): () => string {
  let id = create()
  // What sessionStorage says while this page has the id. Empty while other pages may take the id.
  let own: string | undefined
  try {
    const [free, stored, { navigation }] = [localStorage, sessionStorage, self as unknown as Page]
    // A frame shares the tab's sessionStorage, but has an id of its own, by its place.
    let key = NAME
    for (let frame: Window = self; frame !== top; frame = frame.parent) {
      let place = 0
      while (frame.parent[place] !== frame) place++
      key += ` ${place}`
    }

    // Takes the id that the tab's last page has made free, or makes an id.
    const take = (shown?: unknown): void => {
      // Ids that have been free for about a week are swept.
      for (const name in free) if (name.startsWith(NAME) && free[name] < Date.now() - 6e8) delete free[name]
      let [next, last] = `${stored[key]}`.split(' ') as [string, string?]
      // Chromium may show a page that was prerendered or cached before the last page runs `pagehide`, or before this page can see that the
      // id is free. The id is the tab's if the last page took the id last. If the id is a copy, a page of another tab took the id last.
      if (!free[NAME + next] && !(shown && last && last === navigation?.activation?.from?.key)) next = create()
      stored[key] = own = `${next} ${navigation?.currentEntry.key ?? create()}`
      delete free[NAME + next]
      id = next
    }

    // Storage may be full. That costs the next page the id, and nobody an exception. Captures the event, to run before the page's listeners.
    const on = (type: string, listener: (event: any) => void): void => addEventListener(type, event => {
      try {
        listener(event)
      } catch {}
    }, true)
    on('pagehide', () => {
      // The next page may have taken the id by now.
      if (stored[key] === own) free[NAME + id] = Date.now()
      own = ''
    })
    // A page that comes back from the back/forward cache is not loaded again. If storage was full, the page still has the id.
    on('pageshow', event => { if (event.persisted && !own) take(event) })
    // The last page did not know yet that this page has taken the id, and has made the id free.
    on('storage', () => { if (own) delete free[NAME + id] })
    // A prerendered page may never be shown, and the page that is shown has the tab's id.
    on('prerenderingchange', take)
    if (!(document as { prerendering?: boolean }).prerendering) take()
  } catch {} // Storage is blocked: the page keeps its id, and the next page makes another.
  return () => id
}

// crypto.randomUUID exists only in secure contexts: https://w3c.github.io/webcrypto/#Crypto-method-randomUUID
function create (): string {
  return crypto.getRandomValues(new Uint32Array(4)).reduce((text, number) => text + number.toString(16).padStart(8, '0'), '')
}
