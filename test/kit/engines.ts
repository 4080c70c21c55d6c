// Three engines behind one face: Debian's Chromium by Playwright, Firefox by Marionette, and WebKitGTK by WebDriver. Each browser has an
// empty profile and a back/forward cache, as a user's browser has, and ends with the test.
import type { Test } from 'tap'
import { launchChromium } from './engines/chromium.ts'
import { firefoxProgram, launchFirefox } from './engines/firefox.ts'
import { launchWebKit } from './engines/webkit.ts'
import { reasonToSkip } from './programs.ts'

export type Engine = 'chromium' | 'firefox' | 'webkit'

export interface Browser {
  readonly engine: Engine
  /** Throws if the browser has ended. For loops that wait for what a page does. */
  mustRun: () => void
  /** Opens a tab, in front. Waits until the page at `url` has loaded. */
  newTab: (url?: string) => Promise<Tab>
  /** The errors that pages have thrown or written to the console so far. WebKitGTK tells nobody, so its list is empty. */
  errors: () => Promise<string[]>
}

export interface Tab {
  /** Navigates as a user does who types an address. Waits until the page has loaded. */
  goto: (url: string) => Promise<void>
  reload: () => Promise<void>
  /** Resolves when the page of the history is shown. */
  back: () => Promise<void>
  forward: () => Promise<void>
  /**
   * Runs `script` in the page, and resolves to its result, or to what its promise resolves to. The script sees its arguments and the page's
   * globals, and no variable of the test. Set and get the page's own globals on `globalThis`.
   */
  run: <A extends unknown[], R>(script: (...args: A) => R, ...args: A) => Promise<Awaited<R>>
  /** Resolves when `script` returns true in the page, whatever page the tab shows by then. Has no time limit but the test's, and rejects if the browser has ended. */
  until: <A extends unknown[]>(script: (...args: A) => unknown, ...args: A) => Promise<void>
  /** Clicks the element, as a user does. */
  click: (selector: string) => Promise<void>
  /** Runs `script`, which opens a tab or a window, and resolves to the opened tab. */
  opens: <A extends unknown[]>(script: (...args: A) => unknown, ...args: A) => Promise<Tab>
  /** Duplicates the tab as the tab's context menu does. WebKitGTK has no such command: there `duplicate` is missing. */
  duplicate?: () => Promise<Tab>
  /** Shows the tab and so hides the tab in front of it. WebKitGTK's driver cannot do this. */
  show: () => Promise<void>
  close: () => Promise<void>
}

const PROGRAMS = { chromium: ['chromium'], firefox: [firefoxProgram], webkit: ['WebKitWebDriver', 'Xvfb'] }
export const ENGINES = Object.keys(PROGRAMS) as Engine[]

/** Options for `t.test`: skip if a program is missing. On CI no test is skipped. */
export function optionsFor (engine: Engine): { skip: string | false } {
  return { skip: PROGRAMS[engine].map(reasonToSkip).find(reason => reason !== false) ?? false }
}

/** Starts a browser with an empty profile, and ends the browser when the test ends. */
export async function launch (t: Test, engine: Engine): Promise<Browser> {
  return await { chromium: launchChromium, firefox: launchFirefox, webkit: launchWebKit }[engine](t)
}
