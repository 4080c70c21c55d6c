// Debian's Chromium, by Playwright, and with an extension that duplicates tabs, which a page cannot do.
import { spawnSync } from 'node:child_process'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { chromium, type BrowserContext, type Page } from 'playwright-core'
import type { Test } from 'tap'
import type { Browser, Tab } from '../engines.ts'
import { folder, start, type Program } from './program.ts'

export const executablePath = spawnSync('which', ['chromium'], { encoding: 'utf8' }).stdout.trim()

export const FLAGS = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--disable-popup-blocking', '--password-store=basic', '--ignore-certificate-errors'
]
const MANIFEST = { manifest_version: 3, name: 'duplicate', version: '1', permissions: ['tabs'], background: { service_worker: 'background.js' } }
const BACKGROUND = 'globalThis.duplicate = async url => { const [tab] = await chrome.tabs.query({ active: true, url: url + "*" }); await chrome.tabs.duplicate(tab.id) }'

export interface ChromiumBrowser extends Browser {
  context: BrowserContext
}

/** Starts Chromium without Playwright, which turns prerendering off. */
export function startChromium (t: Test, home: string, ...args: string[]): Program {
  return start(t, home, executablePath, [...FLAGS, `--user-data-dir=${join(home, 'profile')}`, ...args])
}

export async function launchChromium (t: Test): Promise<ChromiumBrowser> {
  const home = await folder(t, 'chromium')
  const program = startChromium(t, home, '--remote-debugging-port=0', await writeExtension(home), 'about:blank')
  const [endpoint] = await program.says(/ws:\/\/\S+/)
  // With `noDefaults` Playwright lets hidden tabs know that they are hidden.
  // A browser that ends closes the connection, and so ends every wait of Playwright.
  const browser = await chromium.connectOverCDP(endpoint, { noDefaults: true, timeout: 0 })
  t.teardown(() => browser.close())
  const context = browser.contexts()[0]!
  context.setDefaultTimeout(0)
  const errors = errorsOf(context)
  return {
    engine: 'chromium',
    mustRun: program.mustRun,
    context,
    async newTab (url) {
      const opened = tab(await context.newPage(), program)
      if (url !== undefined) await opened.goto(url)
      return opened
    },
    errors: async () => errors
  }
}

/** Writes the extension, and returns the flag that loads the extension. */
export async function writeExtension (home: string): Promise<string> {
  const extension = join(home, 'extension')
  await mkdir(extension)
  await writeFile(join(extension, 'manifest.json'), JSON.stringify(MANIFEST))
  await writeFile(join(extension, 'background.js'), BACKGROUND)
  return `--load-extension=${extension}`
}

/** The errors that pages throw or write to the console from now on. */
export function errorsOf (context: BrowserContext): string[] {
  const errors: string[] = []
  context.on('console', message => { if (message.type() === 'error') errors.push(`${message.text()} (${message.location().url})`) })
  context.on('weberror', error => errors.push(String(error.error())))
  return errors
}

/** Duplicates the tab, as the tab's context menu does. Resolves to the new tab's page. */
export async function duplicate (page: Page): Promise<Page> {
  const context = page.context()
  const worker = context.serviceWorkers()[0] ?? await context.waitForEvent('serviceworker')
  await page.bringToFront()
  const [opened] = await Promise.all([
    context.waitForEvent('page'),
    worker.evaluate(url => (globalThis as unknown as { duplicate: (url: string) => Promise<void> }).duplicate(url), page.url())
  ])
  return opened
}

function tab (page: Page, program: Program): Tab {
  const run: Tab['run'] = (script, ...args) => page.evaluate(`(${script}).apply(null, ${JSON.stringify(args)})`)
  return {
    async goto (url) { await page.goto(url) },
    async reload () { await page.reload() },
    async back () { await page.goBack({ waitUntil: 'commit' }) },
    async forward () { await page.goForward({ waitUntil: 'commit' }) },
    run,
    async until (script, ...args) {
      // A script fails if its page is left, and the next page counts as well.
      while (await run(script, ...args).catch(program.mustRun) !== true) {
        if (page.isClosed()) throw new Error('the tab is closed')
        await pause(10)
      }
    },
    click: selector => page.click(selector),
    async opens (script, ...args) {
      const [opened] = await Promise.all([page.context().waitForEvent('page'), run(script, ...args)])
      return tab(opened, program)
    },
    duplicate: async () => tab(await duplicate(page), program),
    show: () => page.bringToFront(),
    close: () => page.close()
  }
}
