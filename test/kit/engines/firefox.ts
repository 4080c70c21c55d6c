// Debian's Firefox, by Marionette, the protocol below geckodriver: https://firefox-source-docs.mozilla.org/testing/marionette/Protocol.html
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFile, rm, writeFile } from 'node:fs/promises'
import net from 'node:net'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { Test } from 'tap'
import type { Browser } from '../engines.ts'
import { folder, start, type Program } from './program.ts'
import { drive, type Send } from './web-driver.ts'

const PREFERENCES = {
  'app.update.enabled': false,
  'browser.aboutwelcome.enabled': false,
  'browser.shell.checkDefaultBrowser': false,
  'browser.startup.page': 0,
  'browser.tabs.warnOnClose': false,
  'datareporting.policy.dataSubmissionEnabled': false,
  'dom.disable_open_during_load': false,
  'extensions.update.enabled': false,
  // Firefox writes the port that it gets to the file MarionetteActivePort.
  'marionette.port': 0,
  'network.captive-portal-service.enabled': false,
  'network.connectivity-service.enabled': false,
  'services.settings.server': 'data:,',
  'toolkit.startup.max_resumed_crashes': -1
}

const has = (program: string) => spawnSync('which', [program], { stdio: 'ignore' }).status === 0
/** Debian's name, or the name on Ubuntu, which has no package firefox-esr. */
export const firefoxProgram = !has('firefox-esr') && has('firefox') ? 'firefox' : 'firefox-esr'

export interface Firefox extends Browser {
  /** Runs a script with the rights of the browser's own code. */
  inChrome: (script: string, ...args: unknown[]) => Promise<any>
  /** Ends the browser as its menu does, and resolves when the browser has exited. */
  quit: () => Promise<void>
}

async function writePreferences (profile: string, preferences: Record<string, unknown>): Promise<void> {
  await writeFile(join(profile, 'user.js'), Object.entries({ ...PREFERENCES, ...preferences }).map(([name, value]) => `user_pref(${JSON.stringify(name)}, ${JSON.stringify(value)});\n`).join(''))
}

/** Starts Firefox as its profile is, for tests whose witness is the server. */
export function startFirefox (t: Test, profile: string, ...args: string[]): Program {
  return start(t, profile, firefoxProgram, ['--headless', '--no-remote', '--profile', profile, ...args])
}

/** Starts Firefox with an empty profile, or with `profile`. `preferences` are set in addition to the usual ones. */
export async function launchFirefox (t: Test, profile?: string, preferences: Record<string, unknown> = {}): Promise<Firefox> {
  profile ??= await folder(t, 'firefox')
  // The last browser with this profile may have left its port there.
  await rm(join(profile, 'MarionetteActivePort'), { force: true })
  await writePreferences(profile, preferences)
  const firefox = startFirefox(t, profile, '--marionette', '--remote-allow-system-access')
  let port
  while (port === undefined) {
    port = await readFile(join(profile, 'MarionetteActivePort'), 'utf8').catch(() => undefined)
    firefox.mustRun()
    await pause(20)
  }
  const send = await connect(t, Number(port))
  await send('NewSession', { acceptInsecureCerts: true, pageLoadStrategy: 'normal', timeouts: { implicit: 0, pageLoad: 3_600_000, script: 3_600_000 } })
  const inChrome = async (script: string, ...args: unknown[]) => {
    await send('Marionette:SetContext', { value: 'chrome' })
    return await send('ExecuteScript', { script, args }).finally(() => send('Marionette:SetContext', { value: 'content' }))
  }
  const driver = drive(send, { mustRun: firefox.mustRun, duplicate: () => inChrome('gBrowser.selectedTab = gBrowser.duplicateTab(gBrowser.selectedTab)') })
  return {
    engine: 'firefox',
    mustRun: firefox.mustRun,
    newTab: driver.newTab,
    inChrome: (script, ...args) => driver.exclusively(() => inChrome(script, ...args)),
    async quit () {
      const exited = once(firefox.child, 'exit')
      // Firefox may exit before it replies.
      send('Marionette:Quit', { flags: ['eAttemptQuit'] }).catch(() => {})
      await exited
    },
    errors: () => driver.exclusively(() => inChrome(`
      const thrown = Services.console.getMessageArray().filter(message => message instanceof Ci.nsIScriptError && message.category === 'content javascript' && !(message.flags & Ci.nsIScriptError.warningFlag))
      return thrown.map(message => message.errorMessage + ' (' + message.sourceName + ')')`))
  }
}

async function connect (t: Test, port: number): Promise<Send> {
  const socket = net.connect(port, '127.0.0.1')
  t.teardown(() => { socket.destroy() })
  await once(socket, 'connect')
  const waiting = new Map<number, { resolve: (value: unknown) => void, reject: (error: Error) => void }>()
  let received = Buffer.alloc(0)
  let failure: Error | undefined
  let said = () => {}
  let refused: (error: Error) => void = () => {}
  const hello = new Promise<void>((resolve, reject) => {
    said = resolve
    refused = reject
  })
  socket.on('data', data => {
    // Each message is its length, a colon, and JSON.
    received = Buffer.concat([received, data])
    for (;;) {
      const colon = received.indexOf(':')
      const end = colon + 1 + Number(received.subarray(0, Math.max(colon, 0)))
      if (colon < 0 || received.length < end) return
      const message = JSON.parse(String(received.subarray(colon + 1, end)))
      received = received.subarray(end)
      if (!Array.isArray(message)) {
        said()
        continue
      }
      const [, number, error, result] = message
      const { resolve, reject } = waiting.get(number)!
      waiting.delete(number)
      if (error !== null) reject(new Error(`${error.error}: ${error.message}`))
      else resolve(result !== null && typeof result === 'object' && 'value' in result ? result.value : result)
    }
  })
  socket.on('error', error => { failure = error })
  socket.on('close', () => {
    failure = new Error(`Firefox has closed the connection (${failure?.message ?? 'no error'})`)
    refused(failure)
    for (const { reject } of waiting.values()) reject(failure)
    waiting.clear()
  })
  await hello
  let count = 0
  return (command, parameters = {}) => new Promise((resolve, reject) => {
    // Nobody would answer.
    if (failure !== undefined) return reject(failure)
    waiting.set(++count, { resolve, reject })
    const name = command.includes(':') ? command : `WebDriver:${command === 'NavigateTo' ? 'Navigate' : command}`
    const message = JSON.stringify([0, count, name, name === 'WebDriver:ExecuteScript' ? { sandbox: null, newSandbox: true, ...parameters } : parameters])
    socket.write(`${Buffer.byteLength(message)}:${message}`)
  })
}
