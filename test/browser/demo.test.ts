// The demo in Chromium: each tab has a single stream, and a duplicated tab does not share the stream of the first tab.
import t from 'tap'
import type { Page } from 'playwright-core'
import { startExample } from '../kit/child.ts'
import { browserOptions, launch } from '../kit/chromium.ts'

/** Resolves when the page shows these numbers, however long that takes. */
async function untilShown (tab: Page, numbers: { live: number, zombies: number, replaced: number }): Promise<void> {
  await tab.waitForFunction(numbers => {
    const { document } = globalThis as any
    return Object.entries(numbers).every(([id, number]) => document.getElementById(id)?.textContent === String(number))
  }, numbers, { timeout: 0 })
}

t.test('a duplicated tab of the demo has a separate stream, which only that tab replaces', browserOptions, async t => {
  const { url } = await startExample(t, 'examples/demo/server.js')
  const { newTab, duplicate, errors } = await launch(t)
  const first = await newTab()
  await first.goto(url)
  await untilShown(first, { live: 1, zombies: 0, replaced: 0 })
  const second = await duplicate(first)
  await untilShown(first, { live: 2, zombies: 0, replaced: 0 })
  await first.click('#pull')
  await untilShown(first, { live: 0, zombies: 2, replaced: 0 })
  await first.goto(`${url}/map`)
  await untilShown(first, { live: 1, zombies: 1, replaced: 1 })
  await second.goto(`${url}/chat`)
  await untilShown(first, { live: 2, zombies: 0, replaced: 2 })
  t.strictSame(errors, [])
})

t.test('the demo\'s button pulls the cable five times and goes on to the next page each time, and no zombie is left', browserOptions, async t => {
  const { url } = await startExample(t, 'examples/demo/server.js')
  const { newTab, errors } = await launch(t)
  const tab = await newTab()
  await tab.goto(url)
  await tab.click('#repeat')
  await untilShown(tab, { live: 1, zombies: 0, replaced: 5 })
  t.equal(tab.url(), `${url}/chat`)
  t.strictSame(errors, [])
})
