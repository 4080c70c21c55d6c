// Options: the defaults, and which values are refused at registration.
import autoload from '@fastify/autoload'
import Fastify, { type FastifyBaseLogger } from 'fastify'
import t from 'tap'
import octaStarStreams, { type OctaStarStreamsOptions } from '../lib/index.ts'
import { defaults, resolveOptions } from '../lib/options.ts'
import { buildApp, LEVELS, type AppOptions } from './kit/app.ts'
import { memoryLog } from './kit/memory-log.ts'

t.test('an option that is left out or undefined has its default, and the defaults cannot be changed', async t => {
  t.strictSame(resolveOptions({}), { ...defaults })
  t.equal(resolveOptions({ closeGrace: undefined } as object).closeGrace, 1_000)
  t.ok(Object.isFrozen(defaults))
  t.ok(Object.isFrozen(resolveOptions({})))
})

t.test('an option of the wrong type or beyond its limits fails the registration, and the error names the option', async t => {
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
    ['sse', true, /option 'sse' must be an object, .* got true/],
    ['sse', null, /got null/],
    ['sse', { heartbeatInterval: '1000' }, /option 'sse' must be an object, whose heartbeatInterval is 0 or a number of milliseconds from 1 to 2147483647, got /],
    ['sse', { heartbeatInterval: Infinity }, /heartbeatInterval/],
    ['sse', { heartbeatInterval: 2 ** 31 }, /heartbeatInterval/]
  ]
  for (const [name, value, message] of wrong) {
    const fastify = Fastify()
    await t.rejects(async () => { await fastify.register(octaStarStreams, { [name]: value } as OctaStarStreamsOptions) }, { code: 'FST_ERR_OCTA_STAR_OPTION', message })
    await fastify.close()
  }
})

t.test('an unknown option does not stop the registration, and a warning names the nearest known option, if an option is near', async t => {
  const unknown = { tabid: 'a', replaceTimout: 100, maxStreamPerScope: 3, database: {}, nothing: undefined }
  const { fastify, log } = await buildApp(t, unknown as OctaStarStreamsOptions)
  t.strictSame(log.filter(({ level }) => level === LEVELS.warn).map(({ msg }) => msg), [
    "octa-star-streams: unknown option 'tabid'. Did you mean 'tabId'?",
    "octa-star-streams: unknown option 'replaceTimout'. Did you mean 'replaceTimeout'?",
    "octa-star-streams: unknown option 'maxStreamPerScope'. Did you mean 'maxStreamsPerScope'?",
    "octa-star-streams: unknown option 'database'. The plugin ignores the option"
  ])
  t.equal(fastify.streamRegistry.size, 0)
})

t.test('@fastify/autoload may pass the options of an application to every plugin, and a wrong value still fails', async t => {
  const dir = t.testdir({ 'streams.mjs': `export { default } from '${new URL('../lib/index.ts', import.meta.url).href}'` })
  const load = async (options: object) => {
    const { log, lines } = memoryLog()
    const fastify = Fastify({ loggerInstance: { ...log, trace () {}, fatal () {}, child: () => log, level: 'info', silent () {} } as unknown as FastifyBaseLogger })
    fastify.register(autoload, { dir, options })
    try {
      await fastify.ready()
    } finally {
      await fastify.close()
    }
    return { fastify, warnings: lines.filter(({ level }) => level === 'warn').map(({ details }) => details) }
  }
  const { fastify, warnings } = await load({ prefix: '/api', database: 'postgres://localhost/shop', replaceTimeout: 100 })
  t.ok(fastify.hasReplyDecorator('startStream'))
  t.strictSame(warnings, ["octa-star-streams: unknown option 'database'. The plugin ignores the option"])
  await t.rejects(load({ database: 'postgres://localhost/shop', replaceTimeout: 0 }), { code: 'FST_ERR_OCTA_STAR_OPTION' })
})

t.test('the plugin does not refuse the options of `register` itself', async t => {
  const fastify = Fastify()
  await fastify.register(octaStarStreams, { prefix: '/api', logLevel: 'warn', replaceTimeout: 100 } as OctaStarStreamsOptions)
  t.equal(fastify.streamRegistry.size, 0)
  await fastify.close()
  const { log } = await buildApp(t, { prefix: '/api', logLevel: 'debug', logSerializers: {} } as AppOptions)
  t.strictSame(log.filter(({ level }) => level >= LEVELS.warn), [])
})
