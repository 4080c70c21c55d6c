// Options: their defaults, and what is refused at registration.
import Fastify from 'fastify'
import t from 'tap'
import octaStarStreams, { type OctaStarStreamsOptions } from '../lib/index.ts'
import { defaults, resolveOptions } from '../lib/options.ts'

t.test('the defaults hold where an option is left out or undefined, and cannot be changed', async t => {
  t.strictSame(resolveOptions({}), { ...defaults })
  t.equal(resolveOptions({ closeGrace: undefined } as object).closeGrace, 1_000)
  t.ok(Object.isFrozen(defaults))
  t.ok(Object.isFrozen(resolveOptions({})))
})

t.test('an option of the wrong type or out of its limits fails the registration, by name', async t => {
  const wrong: Array<[string, unknown, RegExp]> = [
    ['signal', '', /option 'signal' must be a non-empty string, got ""/],
    ['signal', 1, /got 1/],
    ['tabId', 'tabId', /option 'tabId' must be a function, got "tabId"/],
    ['replaceTimeout', 0, /option 'replaceTimeout' must be a number of milliseconds from 1 to 2147483647, got 0/],
    ['replaceTimeout', '5s', /got "5s"/],
    ['replaceTimeout', Infinity, /got Infinity/],
    ['closeGrace', NaN, /option 'closeGrace' must be/],
    ['closeGrace', 2 ** 31, /got 2147483648/],
    ['maxStreamsPerScope', 0, /option 'maxStreamsPerScope' must be a whole number from 1, or Infinity, got 0/],
    ['maxStreamsPerScope', 1.5, /got 1.5/],
    ['onLimit', 'replace', /option 'onLimit' must be 'replace-oldest' or 'reject', got "replace"/],
    ['browser', 'tab-id.js', /option 'browser' must be a path that begins with '\/', got "tab-id.js"/],
    ['sse', true, /option 'sse' must be an object, got true/]
  ]
  for (const [name, value, message] of wrong) {
    const fastify = Fastify()
    await t.rejects(async () => { await fastify.register(octaStarStreams, { [name]: value } as OctaStarStreamsOptions) }, { code: 'FST_ERR_OCTA_STAR_OPTION', message })
    await fastify.close()
  }
})

t.test('an unknown option fails the registration, and the error lists the known options', async t => {
  const fastify = Fastify()
  const expected = { code: 'FST_ERR_OCTA_STAR_UNKNOWN_OPTION', message: /unknown option 'tabid'\. Known options: signal, tabId, replaceTimeout/ }
  await t.rejects(async () => { await fastify.register(octaStarStreams, { tabid: 'a' } as OctaStarStreamsOptions) }, expected)
  await fastify.close()
})

t.test('what `register` itself takes is not for the plugin to refuse', async t => {
  const fastify = Fastify()
  await fastify.register(octaStarStreams, { prefix: '/api', logLevel: 'warn', replaceTimeout: 100 } as OctaStarStreamsOptions)
  t.equal(fastify.streamRegistry.size, 0)
  await fastify.close()
})
