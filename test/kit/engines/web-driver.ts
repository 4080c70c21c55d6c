// The face of an engine that speaks WebDriver (https://www.w3.org/TR/webdriver2/), by whatever transport.
import { setTimeout as pause } from 'node:timers/promises'
import type { Tab } from '../engines.ts'

/** Sends a command with the name that the standard gives it, without spaces, and resolves to the reply's value. */
export type Send = (command: string, parameters?: Record<string, unknown>) => Promise<any>

export interface Driver {
  newTab: (url?: string) => Promise<Tab>
  /** Runs `task` while no other command is sent. A session has one current window, so commands take turns. */
  exclusively: <T>(task: () => Promise<T>) => Promise<T>
}

/** `mustRun` throws if the browser has ended. `duplicate` duplicates the tab in front. */
export function drive (send: Send, { mustRun, duplicate, unused = [] }: { mustRun: () => void, duplicate?: () => Promise<unknown>, unused?: string[] }): Driver {
  let last: Promise<unknown> = Promise.resolve()
  const exclusively = <T>(task: () => Promise<T>): Promise<T> => {
    const turn = last.then(task, task)
    last = turn.catch(() => {})
    return turn
  }

  function tab (handle: string): Tab {
    const show = () => send('SwitchToWindow', { handle, focus: true })
    const inTab = <T>(task: () => Promise<T>) => exclusively(async () => {
      await send('SwitchToWindow', { handle, focus: false })
      return await task()
    })
    // Marionette runs scripts in a sandbox whose prototype is the window.
    const call = (script: (...args: any[]) => unknown) => `(globalThis => (${script}).apply(null, arguments))(window)`
    const onClick = (script: (...args: any[]) => unknown) => `addEventListener('click', event => {
      event.preventDefault();
      ${call(script)}
    }, { capture: true, once: true })`
    const execute = (script: (...args: any[]) => unknown, args: unknown[]) => send('ExecuteScript', { script: `return ${call(script)}`, args })
    const opens = (action: () => Promise<unknown>) => inTab(async () => {
      const before: string[] = await send('GetWindowHandles')
      await action()
      for (;;) {
        const opened = (await send('GetWindowHandles') as string[]).find(handle => !before.includes(handle))
        if (opened !== undefined) return tab(opened)
        await pause(10)
      }
    })
    // A user who clicks has the tab in front. In a hidden tab Firefox waits for the next frame for ever.
    const click = async (selector: string) => {
      await show()
      const found = await send('FindElement', { using: 'css selector', value: selector })
      await send('ElementClick', { id: Object.values(found)[0] })
    }
    return {
      goto: url => inTab(() => send('NavigateTo', { url })),
      reload: () => inTab(() => send('Refresh')),
      back: () => inTab(() => send('Back')),
      forward: () => inTab(() => send('Forward')),
      run: (script, ...args) => inTab(() => execute(script, args)),
      async until (script, ...args) {
        // A script fails if its page is left, and the next page counts as well.
        while (await inTab(() => execute(script, args)).catch(mustRun) !== true) await pause(10)
      },
      click: selector => inTab(() => click(selector)),
      // WebKitGTK lets a script open a window if the user has just clicked.
      opens: (script, ...args) => opens(async () => {
        await send('ExecuteScript', { script: onClick(script), args })
        await click(':root')
      }),
      ...duplicate === undefined ? {} : { duplicate: () => opens(() => show().then(duplicate)) },
      show: () => exclusively(show),
      close: () => inTab(() => send('CloseWindow'))
    }
  }

  return {
    exclusively,
    async newTab (url) {
      const opened = await exclusively(async () => tab(unused.pop() ?? (await send('NewWindow', { type: 'tab', focus: true })).handle))
      if (url !== undefined) await opened.goto(url)
      return opened
    }
  }
}
