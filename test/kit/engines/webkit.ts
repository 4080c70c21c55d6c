// Debian's WebKitGTK: its small browser MiniBrowser, by WebKitWebDriver, on a screen of Xvfb, because MiniBrowser needs a screen.
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { Test } from 'tap'
import type { Browser } from '../engines.ts'
import { freePort } from '../free-port.ts'
import { folder, start } from './program.ts'
import { drive, type Send } from './web-driver.ts'

// The method and the path of each command: https://www.w3.org/TR/webdriver2/#endpoints
const ENDPOINTS: Record<string, [method: string, path: string]> = {
  Back: ['POST', '/back'],
  CloseWindow: ['DELETE', '/window'],
  DeleteSession: ['DELETE', ''],
  ElementClick: ['POST', '/element/{id}/click'],
  ExecuteScript: ['POST', '/execute/sync'],
  FindElement: ['POST', '/element'],
  Forward: ['POST', '/forward'],
  GetWindowHandles: ['GET', '/window/handles'],
  NavigateTo: ['POST', '/url'],
  NewWindow: ['POST', '/window/new'],
  Refresh: ['POST', '/refresh'],
  SwitchToWindow: ['POST', '/window']
}

export async function launchWebKit (t: Test): Promise<Browser> {
  const home = await folder(t, 'webkit')
  // Xvfb takes a free display, and writes its number when it is ready.
  const screen = start(t, home, 'Xvfb', ['-displayfd', '1', '-screen', '0', '1280x800x24', '-nolisten', 'tcp'])
  const [display] = await screen.says(/^\d+(?=\n)/m)
  const port = await freePort()
  const driver = start(t, home, 'WebKitWebDriver', [`--port=${port}`, '--host=127.0.0.1'], {
    DISPLAY: `:${display}`, GDK_BACKEND: 'x11', LIBGL_ALWAYS_SOFTWARE: '1', NO_AT_BRIDGE: '1', WEBKIT_DISABLE_COMPOSITING_MODE: '1'
  })
  let hasEnded = false
  const mustRun = () => {
    driver.mustRun()
    if (hasEnded) throw new Error(`MiniBrowser has ended: ${driver.output().slice(-2000)}`)
  }
  const call = async (method: string, path: string, body?: unknown) => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, { method, ...body === undefined ? {} : { body: JSON.stringify(body) } })
    const { value } = await response.json() as { value: any }
    // The driver says so if the browser has ended.
    if (value?.error === 'invalid session id') hasEnded = true
    if (response.status !== 200) throw new Error(`${value.error}: ${value.message}`)
    return value
  }
  while (await call('GET', '/status').catch(() => undefined) === undefined) {
    driver.mustRun()
    await pause(20)
  }
  const { sessionId } = await call('POST', '/session', {
    capabilities: { alwaysMatch: { acceptInsecureCerts: true, 'webkitgtk:browserOptions': { binary: miniBrowser(), args: ['--automation'] }, timeouts: { implicit: 0, pageLoad: 3_600_000, script: 3_600_000 } } }
  })
  t.teardown(() => call('DELETE', `/session/${sessionId}`).catch(() => {}))
  const send: Send = async (command, { id, focus, ...body } = {}) => {
    const [method, path] = ENDPOINTS[command]!
    return await call(method, `/session/${sessionId}${path.replace('{id}', String(id))}`, method === 'POST' ? body : undefined)
  }
  // Links open no windows from the tabs that the driver opens, only from the tab that the browser starts with. So `newTab` gives that tab first.
  const { newTab } = drive(send, { mustRun, unused: await send('GetWindowHandles') })
  return { engine: 'webkit', mustRun, newTab, errors: async () => [] }
}

function miniBrowser (): string {
  for (const architecture of readdirSync('/usr/lib')) {
    for (const version of ['4.1', '4.0']) {
      const folder = join('/usr/lib', architecture, `webkit2gtk-${version}`)
      if (readFolder(folder).includes('MiniBrowser')) return join(folder, 'MiniBrowser')
    }
  }
  throw new Error('The package webkit2gtk-driver has no MiniBrowser')
}

function readFolder (path: string): string[] {
  try {
    return readdirSync(path)
  } catch {
    return []
  }
}
