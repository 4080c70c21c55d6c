// In Chromium with the real Datastar client: each tab has one live stream, whatever it does, and an evicted one stays away.
import { setTimeout as pause } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { browserOptions, launch } from '../kit/chromium.ts'
import { launchChromium } from '../kit/engines/chromium.ts'
import { datastarBody, datastarClients, site, thereAndBack, wander } from '../kit/site.ts'

for (const { name, script } of datastarClients()) {
  const datastarSite = (t: Test, options?: string, more = '') => site(t, datastarBody(options) + more, { scripts: { '/datastar.js': script } })

  t.test(`${name}: navigation, reload, back and forward leave one live stream, with one tab id`, browserOptions, async t => {
    const visited = await datastarSite(t)
    const { streams } = visited
    const { newTab, errors } = await launch(t)
    await wander(await newTab(), visited)
    t.equal(new Set(streams.map(stream => stream.tabId)).size, 1)
    t.match(streams[0]!.tabId, /^[0-9a-f]{32}$/)
    t.strictSame(errors, [])
  })

  t.test(`${name}: a tab that is hidden and shown twenty times has one stream at the end`, browserOptions, async t => {
    const { app, streams, until } = await datastarSite(t)
    const { newTab, errors } = await launchChromium(t)
    const tab = await newTab(app.url('/'))
    await until(1, 1)
    const other = await newTab()
    for (let i = 1; i <= 20; i++) {
      await other.show()
      await until(0, i)
      await tab.show()
      await until(1, i + 1)
    }
    t.equal(streams.length, 21)
    t.equal(new Set(streams.map(stream => stream.tabId)).size, 1)
    t.strictSame(await errors(), [])
  })

  for (const options of ['', '{retry: \'always\'}']) {
    t.test(`${name} ${options}: a logout ends every tab's stream, and none comes back`, browserOptions, async t => {
      const { app, streams, until } = await datastarSite(t, options)
      const { newTab, errors } = await launch(t)
      for (let i = 1; i <= 3; i++) {
        const tab = await newTab()
        await tab.goto(app.url('/'))
        await until(i, i)
      }
      t.equal(await app.fastify.streamRegistry.evict('ann'), 3)
      // Datastar retries after a second, and after twice as long each time.
      await pause(5000)
      t.equal(streams.length, 3, 'nobody has come back')
      t.equal(app.fastify.streamRegistry.size, 0)
      t.strictSame(errors, [])
    })
  }

  t.test(`${name}: a page that comes back from the back/forward cache streams again, with openWhenHidden by one attribute`, browserOptions, async t => {
    const open = "@get('/stream', {openWhenHidden: true})"
    const again = `evt.persisted && ${open}`
    // The attribute for 1.0, and for its betas.
    const visited = await datastarSite(t, '{openWhenHidden: true}', `<p data-on:pageshow__window="${again}" data-on-pageshow__window="${again}"></p>`)
    const { streams, until } = visited
    const { newTab } = await launch(t)
    await thereAndBack(await newTab(), visited)
    await until(1, 3)
    t.ok(streams.slice(0, 2).every(stream => stream.signal.aborted))
  })
}
