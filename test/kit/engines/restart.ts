// What a user rarely does to a browser, and a browser to a tab: quit and restore, discard, crash. In Chromium and Firefox.
import { setTimeout as pause } from 'node:timers/promises'
import type { Test } from 'tap'
import type { Engine } from '../engines.ts'
import { startChromium, writeExtension } from './chromium.ts'
import { launchPlainChromium } from './dev-tools.ts'
import { launchFirefox, startFirefox } from './firefox.ts'
import { folder, type Program } from './program.ts'

/** A browser whose tabs are known by the addresses that they show. */
export interface RestartableBrowser {
  /** Throws if the browser has ended. */
  mustRun: () => void
  /** Opens a tab, in front. */
  newTab: (url: string) => Promise<unknown>
  /** Takes the memory of a tab that is not in front, as the browser does when memory is short. */
  discard: (url: string) => Promise<unknown>
  show: (url: string) => Promise<unknown>
  /** Ends the tab's process, as an error in the browser does, and resolves when the browser has noticed. */
  crash: (url: string) => Promise<unknown>
  /** Loads the tab that has crashed again. */
  reloadCrashed: () => Promise<unknown>
  /** Quits, starts again and restores the tabs. */
  restart: () => Promise<Program>
}

export async function restartable (t: Test, engine: Engine): Promise<RestartableBrowser> {
  const home = await folder(t, engine)
  return engine === 'firefox' ? await firefox(t, home) : await chromium(t, home, await writeExtension(home))
}

async function chromium (t: Test, home: string, ...args: string[]): Promise<RestartableBrowser> {
  const browser = await launchPlainChromium(t, home, ...args)
  const call = (url: string, method: string) => browser.inExtension(`chrome.tabs.query({}).then(tabs => {
    const { id } = tabs.find(tab => tab.url === ${JSON.stringify(url)})
    return ${method}
  })`)
  let crashed: string
  return {
    mustRun: browser.mustRun,
    newTab: browser.newTab,
    discard: url => call(url, 'chrome.tabs.discard(id)'),
    show: url => call(url, 'chrome.tabs.update(id, { active: true })'),
    async crash (url) {
      crashed = await browser.findTab(url)
      await browser.crash(crashed)
    },
    reloadCrashed: async () => await browser.send('Page.reload', {}, await browser.attach(crashed)),
    async restart () {
      await browser.quit()
      return startChromium(t, home, ...args, '--restore-last-session')
    }
  }
}

// Marionette sets preferences of its own, among them that Firefox starts with an empty window.
const PREFERENCES = { 'browser.sessionstore.restore_on_demand': false, 'browser.startup.page': 3, 'remote.prefs.recommended': false }

async function firefox (t: Test, profile: string): Promise<RestartableBrowser> {
  const browser = await launchFirefox(t, profile, PREFERENCES)
  const call = (url: string, statement: string) => browser.inChrome(`const tab = gBrowser.tabs.find(tab => tab.linkedBrowser.currentURI.spec === arguments[0]); ${statement}`, url)
  return {
    mustRun: browser.mustRun,
    newTab: browser.newTab,
    discard: url => call(url, 'gBrowser.discardBrowser(tab, true)'),
    show: url => call(url, 'gBrowser.selectedTab = tab'),
    async crash (url) {
      // Firefox restores what it has last noted of the tab, and notes by itself every 15 seconds.
      await call(url, "return ChromeUtils.importESModule('resource:///modules/sessionstore/TabStateFlusher.sys.mjs').TabStateFlusher.flush(tab.linkedBrowser)")
      process.kill(await call(url, 'return tab.linkedBrowser.browsingContext.currentWindowGlobal.osPid'), 'SIGKILL')
      while (await browser.inChrome("return gBrowser.tabs.some(tab => tab.hasAttribute('crashed'))") === false) await pause(10)
    },
    reloadCrashed: () => browser.inChrome("SessionStore.reviveCrashedTab(gBrowser.tabs.find(tab => tab.hasAttribute('crashed')))"),
    async restart () {
      // At the start headless Firefox ends the process of the tab in front ("IPDL protocol error"), and may already have restored the tab there.
      // So leave the empty tab that Firefox began with in front.
      await browser.inChrome('gBrowser.selectedTab = gBrowser.tabs[0]')
      await browser.quit()
      return startFirefox(t, profile)
    }
  }
}
