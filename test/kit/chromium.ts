// Debian's Chromium with an empty profile, and with an extension that duplicates tabs, which a page cannot do.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { chromium, type BrowserContext, type Page } from 'playwright-core'
import type { Test } from 'tap'
import { reasonToSkip } from './programs.ts'

const executablePath = spawnSync('which', ['chromium'], { encoding: 'utf8' }).stdout.trim()

const FLAGS = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync'
]

/** Options for `t.test`: skip if Chromium is missing. On CI no test is skipped. */
export const browserOptions = {
  skip: reasonToSkip('chromium')
}

export interface Browser {
  context: BrowserContext
  /** All errors that pages have thrown or written to the console. */
  errors: string[]
  newTab: () => Promise<Page>
  /** Duplicates a tab, as the tab's context menu does. */
  duplicate: (page: Page) => Promise<Page>
}

export async function launch (t: Test): Promise<Browser> {
  const directory = await mkdtemp(join(tmpdir(), 'octa-star-chromium-'))
  const extension = join(directory, 'extension')
  await mkdir(extension)
  await writeFile(join(extension, 'manifest.json'), JSON.stringify({ manifest_version: 3, name: 'duplicate', version: '1', permissions: ['tabs'], background: { service_worker: 'background.js' } }))
  await writeFile(join(extension, 'background.js'), 'globalThis.duplicate = async url => { const [tab] = await chrome.tabs.query({ url: url + "*" }); await chrome.tabs.duplicate(tab.id) }')

  const context = await chromium.launchPersistentContext(join(directory, 'profile'), {
    executablePath,
    // No time limits from Playwright: a slow machine starts Chromium late.
    timeout: 0,
    // Playwright disables the back/forward cache and extensions. A user's browser has both.
    ignoreDefaultArgs: ['--disable-back-forward-cache', '--disable-extensions'],
    args: [...FLAGS, `--load-extension=${extension}`]
  })
  context.setDefaultTimeout(0)
  t.teardown(async () => {
    await context.close()
    await rm(directory, { recursive: true, force: true })
  })

  return {
    context,
    errors: errorsOf(context),
    newTab: () => context.newPage(),
    async duplicate (page) {
      const worker = context.serviceWorkers()[0] ?? await context.waitForEvent('serviceworker')
      const opened = context.waitForEvent('page')
      await worker.evaluate(url => (globalThis as unknown as { duplicate: (url: string) => Promise<void> }).duplicate(url), page.url())
      return await opened
    }
  }
}

/** A browser whose hidden tabs know that they are hidden. In the browser of `launch`, Playwright makes every tab believe that the tab is in front. */
export async function launchHonest (t: Test): Promise<Omit<Browser, 'duplicate'>> {
  const directory = await mkdtemp(join(tmpdir(), 'octa-star-chromium-'))
  const chromiumProcess = spawn(executablePath, [...FLAGS, '--remote-debugging-port=0', `--user-data-dir=${directory}`, 'about:blank'], { stdio: ['ignore', 'ignore', 'pipe'] })
  t.teardown(async () => {
    chromiumProcess.kill()
    if (chromiumProcess.exitCode === null) await once(chromiumProcess, 'exit')
    await rm(directory, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 })
  })
  let endpoint = ''
  for await (const line of createInterface(chromiumProcess.stderr)) {
    endpoint = /ws:\/\/\S+/.exec(line)?.[0] ?? ''
    if (endpoint !== '') break
  }
  chromiumProcess.stderr.resume()
  const browser = await chromium.connectOverCDP(endpoint, { noDefaults: true, timeout: 0 })
  const context = browser.contexts()[0]!
  context.setDefaultTimeout(0)
  return { context, errors: errorsOf(context), newTab: () => context.newPage() }
}

function errorsOf (context: BrowserContext): string[] {
  const errors: string[] = []
  context.on('console', message => { if (message.type() === 'error') errors.push(`${message.text()} (${message.location().url})`) })
  context.on('weberror', error => errors.push(String(error.error())))
  return errors
}
