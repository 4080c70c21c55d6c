// Debian's Chromium as Playwright starts Chromium: every tab believes that the tab is in front, so tabs do not disturb each other. See
// engines.ts for tabs that know when they are hidden.
import { join } from 'node:path'
import { chromium, type BrowserContext, type Page } from 'playwright-core'
import type { Test } from 'tap'
import { duplicate, errorsOf, executablePath, FLAGS, writeExtension } from './engines/chromium.ts'
import { folder } from './engines/program.ts'
import { reasonToSkip } from './programs.ts'

/** Options for `t.test`: skip if Chromium is missing. On CI no test is skipped. */
export const browserOptions = {
  skip: reasonToSkip('chromium')
}

export interface Browser {
  context: BrowserContext
  /** All errors that pages have thrown or written to the console. */
  errors: string[]
  newTab: () => Promise<Page>
  duplicate: (page: Page) => Promise<Page>
}

export async function launch (t: Test): Promise<Browser> {
  const home = await folder(t, 'chromium')
  const context = await chromium.launchPersistentContext(join(home, 'profile'), {
    executablePath,
    // No time limits from Playwright: a slow machine starts Chromium late.
    timeout: 0,
    // Playwright disables the back/forward cache and extensions. A user's browser has both.
    ignoreDefaultArgs: ['--disable-back-forward-cache', '--disable-extensions'],
    args: [...FLAGS, await writeExtension(home)]
  })
  context.setDefaultTimeout(0)
  t.teardown(() => context.close())
  return { context, errors: errorsOf(context), newTab: () => context.newPage(), duplicate }
}
