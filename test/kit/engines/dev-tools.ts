// Debian's Chromium by its own protocol, without Playwright, which turns prerendering off and attaches to every tab, so that none can be
// discarded: https://chromedevtools.github.io/devtools-protocol/
import { EventEmitter, once } from 'node:events'
import { setTimeout as pause } from 'node:timers/promises'
import { WebSocket } from 'undici'
import type { Test } from 'tap'
import { startChromium } from './chromium.ts'
import type { Program } from './program.ts'

export interface PlainChromium extends Program {
  /** Sends a command to the browser, or to a target that `attach` has attached to. Rejects if the browser has ended. */
  send: (method: string, params?: object, sessionId?: string) => Promise<any>
  /** Opens a tab, in front. Resolves to its target id at once. */
  newTab: (url: string) => Promise<string>
  /** Resolves to the target id of the tab that shows `url`, as soon as there is such a tab. */
  findTab: (url: string) => Promise<string>
  /** Runs an expression in a tab, as if the user had just clicked there. */
  evaluate: (targetId: string, expression: string) => Promise<void>
  /** Resolves to a session for `send`. */
  attach: (targetId: string) => Promise<string>
  /** Ends the tab's process, as an error in the browser does, and resolves when the browser has noticed. */
  crash: (targetId: string) => Promise<void>
  /** Runs an expression in the extension, which has the rights to discard tabs. */
  inExtension: (expression: string) => Promise<void>
  /** Ends the browser as its menu does, and resolves when the browser has exited. */
  quit: () => Promise<void>
}

/** Starts Chromium with the profile in `home`, and ends it when the test ends. */
export async function launchPlainChromium (t: Test, home: string, ...args: string[]): Promise<PlainChromium> {
  const program = startChromium(t, home, '--remote-debugging-port=0', ...args)
  const exited = once(program.child, 'exit')
  const [endpoint] = await program.says(/ws:\/\/\S+/)
  const socket = new WebSocket(endpoint)
  t.teardown(() => { socket.close() })
  const waiting = new Map<number, { resolve: (result: any) => void, reject: (error: Error) => void }>()
  const events = new EventEmitter()
  socket.addEventListener('message', ({ data }) => {
    const { id, result, error, method, sessionId } = JSON.parse(data)
    if (id === undefined) {
      events.emit(`${method} ${sessionId}`)
      return
    }
    const { resolve, reject } = waiting.get(id)!
    waiting.delete(id)
    if (error === undefined) resolve(result)
    else reject(new Error(error.message))
  })
  socket.addEventListener('close', () => {
    for (const { reject } of waiting.values()) reject(new Error('Chromium has closed the connection'))
    waiting.clear()
  })
  await Promise.race([once(socket, 'open'), exited.then(program.mustRun)])
  let count = 0
  const send: PlainChromium['send'] = (method, params = {}, sessionId) => new Promise((resolve, reject) => {
    if (socket.readyState !== WebSocket.OPEN) return reject(new Error('Chromium has closed the connection'))
    waiting.set(++count, { resolve, reject })
    socket.send(JSON.stringify({ id: count, method, params, sessionId }))
  })
  const attach = async (targetId: string) => (await send('Target.attachToTarget', { targetId, flatten: true })).sessionId
  const find = async (matches: (target: any) => boolean) => {
    for (;;) {
      const { targetInfos } = await send('Target.getTargets')
      const target = targetInfos.find(matches)
      if (target !== undefined) return target.targetId
      await pause(10)
    }
  }
  const run = async (targetId: string, expression: string) => {
    const sessionId = await attach(targetId)
    const { exceptionDetails } = await send('Runtime.evaluate', { expression, awaitPromise: true, userGesture: true }, sessionId)
    // Chromium prerenders nothing in a tab that is attached. The tab may be gone by now.
    await send('Target.detachFromTarget', { sessionId }).catch(program.mustRun)
    if (exceptionDetails !== undefined) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text)
  }
  return {
    ...program,
    send,
    attach,
    async crash (targetId) {
      const session = await attach(targetId)
      await send('Inspector.enable', {}, session)
      const crashed = once(events, `Inspector.targetCrashed ${session}`)
      // The page ends without a reply.
      send('Page.crash', {}, session).catch(() => {})
      await Promise.race([crashed, exited.then(program.mustRun)])
    },
    newTab: async url => (await send('Target.createTarget', { url })).targetId,
    async findTab (url) {
      return await find(target => target.type === 'page' && target.subtype === undefined && target.url === url)
    },
    async evaluate (targetId, expression) {
      await run(targetId, expression)
    },
    async inExtension (expression) {
      await run(await find(target => target.type === 'service_worker' && target.url.startsWith('chrome-extension:')), expression)
    },
    async quit () {
      // A browser that exits at once closes the connection before it replies.
      send('Browser.close').catch(() => {})
      await exited
    }
  }
}
