// The packed tarball in an empty project: the package installs, loads with `import` and `require()`, has correct types, and contains the right files.
import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import ts from 'typescript'
import { bin, install, packedFiles, run, tarball, write } from './kit/packed.ts'
import { root } from './kit/run.ts'

// Starts a stream, replaces the stream, and prints how the first stream ended.
const use = `
  const fastify = Fastify()
  await fastify.register(octaStarStreams)
  fastify.get('/stream', { sse: 'only' }, async (request, reply) => (await reply.startStream('ann')).keepAlive())
  const url = await fastify.listen({ port: 0, host: '127.0.0.1' }) + '/stream?datastar=' + encodeURIComponent('{"tabId":"a"}')
  const first = await fetch(url)
  const second = await fetch(url)
  console.log((await first.text()).split('\\n').at(-3), streamKey('ann', 'a').scope)
  await fastify.close()
`

t.test('the package installs beside Fastify in an empty project, and works with import and with require()', async t => {
  await install(tarball, 'fastify@5')
  await write({
    'import.mjs': `import Fastify from 'fastify'\nimport octaStarStreams, { streamKey } from 'octa-star-streams'\n${use}`,
    'require.cjs': `const Fastify = require('fastify')\nconst octaStarStreams = require('octa-star-streams')\nconst { streamKey } = octaStarStreams\n;(async () => {${use}})()`
  })
  t.equal(await run(process.execPath, ['import.mjs']), 'data: replaced "ann"\n')
  t.equal(await run(process.execPath, ['require.cjs']), 'data: replaced "ann"\n')
})

t.test('require() loads CommonJS, so a Node that cannot require an ES module loads the package', async t => {
  // Node before 22.12 cannot require an ES module. See https://nodejs.org/api/modules.html#loading-ecmascript-modules-using-require
  t.equal(await run(process.execPath, ['--no-experimental-require-module', 'require.cjs']), 'data: replaced "ann"\n')
  await write({ 'entries.cjs': "for (const entry of ['browser', 'conformance', 'redis']) console.log(Object.keys(require('octa-star-streams/' + entry)).join())" })
  t.equal(await run(process.execPath, ['--no-experimental-require-module', 'entries.cjs']), 'tabId\ntestCluster\ndefaults,redisCluster\n')
})

t.test('import and require() share one copy of the plugin and of its state', async t => {
  await write({
    'both.mjs': `
      import { createRequire } from 'node:module'
      import Fastify from 'fastify'
      import imported, * as names from 'octa-star-streams'
      import * as redis from 'octa-star-streams/redis'
      import * as conformance from 'octa-star-streams/conformance'
      const require = createRequire(import.meta.url)
      const required = require('octa-star-streams')
      console.log(Object.keys(names).filter(name => name !== 'module.exports').join())
      console.log(imported === required, names.octaStarStreams === required, required.default === required, required.streamKey === names.streamKey)
      console.log(require('octa-star-streams/redis').redisCluster === redis.redisCluster, require('octa-star-streams/conformance').testCluster === conformance.testCluster)
      // The count of keys without a tab id is state of the module.
      console.log(-Number(names.streamKey('ann').slot) + Number(required.streamKey('ann').slot))
      // Both belong to the same server, whose registry knows the streams of both.
      const fastify = Fastify()
      await fastify.register(imported)
      await fastify.register(required).then(() => {}, error => console.log(error.code))
      await fastify.close()
    `
  })
  t.strictSame((await run(process.execPath, ['both.mjs'])).trim().split('\n'), [
    'default,octaStarStreams,streamKey', 'true true true true', 'true true', '1', 'FST_ERR_OCTA_STAR_ALREADY_REGISTERED'
  ])
})

t.test('the other entries can be imported too: the page\'s module outside of a page, and the Datastar methods if the SDK is installed', async t => {
  await write({
    'browser.mjs': "import { tabId } from 'octa-star-streams/browser'\nconsole.log(typeof tabId)",
    'datastar.mjs': "import { datastar, readSignals } from 'octa-star-streams/datastar'\nconsole.log(typeof datastar, typeof readSignals)",
    'datastar.cjs': "const { datastar, readSignals } = require('octa-star-streams/datastar')\nconsole.log(typeof datastar, typeof readSignals)"
  })
  t.equal(await run(process.execPath, ['browser.mjs']), 'function\n')
  await t.rejects(run(process.execPath, ['datastar.mjs']), /@starfederation\/datastar-sdk/)
  await install('@starfederation/datastar-sdk@1')
  t.equal(await run(process.execPath, ['datastar.mjs']), 'function function\n')
  t.equal(await run(process.execPath, ['--no-experimental-require-module', 'datastar.cjs']), 'function function\n')
})

t.test('the tests for adapters import without a test runner', async t => {
  await write({ 'conformance.mjs': "import { testCluster } from 'octa-star-streams/conformance'\nlet tests = 0\nawait testCluster({ test () { tests++ } })\nconsole.log(tests > 20)" })
  t.equal(await run(process.execPath, ['conformance.mjs']), 'true\n')
})

const user = `
import Fastify from 'fastify'
import octaStarStreams, { octaStarStreams as named, streamKey, type OctaStarStreamsOptions, type SendOptions, type StartStreamOptions, type Stream } from 'octa-star-streams'
import { tabId } from 'octa-star-streams/browser'
import { testCluster } from 'octa-star-streams/conformance'
import { datastar } from 'octa-star-streams/datastar'
import { redisCluster } from 'octa-star-streams/redis'
interface User { id: string }
const fastify = Fastify()
fastify.register(octaStarStreams, { closeGrace: 500 })
fastify.register(named, { tabId: request => request.query.tab })
fastify.get('/stream', { sse: 'only' }, async (request, reply) => {
  const stream: Stream = await reply.startStream(['ann', 7])
  const user: User = { id: streamKey('ann').scope + tabId() }
  await fastify.streamRegistry.send(user, { event: 'hello', data: { size: fastify.streamRegistry.size } })
  await datastar(stream).patchElements('<p>')
})
// @ts-expect-error a scope key is never undefined
fastify.get('/wrong', { sse: 'only' }, async (request, reply) => { await reply.startStream(undefined) })
// @ts-expect-error there is no such option
fastify.register(octaStarStreams, { unknown: true })
// Every option may be undefined, also under exactOptionalPropertyTypes.
type AllUndefined<T> = { [Name in keyof T]-?: undefined }
export const options: OctaStarStreamsOptions = {} as AllUndefined<OctaStarStreamsOptions>
export const startOptions: StartStreamOptions = {} as AllUndefined<StartStreamOptions>
export const sendOptions: SendOptions = {} as AllUndefined<SendOptions>
export const redisOptions: Partial<Parameters<typeof redisCluster>[0]> = {} as AllUndefined<Omit<Parameters<typeof redisCluster>[0], 'redis'>>
export const testOptions: Partial<Parameters<typeof testCluster>[0]> = {} as AllUndefined<Omit<Parameters<typeof testCluster>[0], 'test' | 'build'>>
`
const userOfRequire = `
import whole = require('octa-star-streams')
import Fastify = require('fastify')
const fastify = Fastify()
fastify.register(whole, { closeGrace: 500 })
export const stream = {} as whole.Stream
export const key: whole.StreamKey = whole.streamKey(['ann'])
`
const strict = ['--noEmit', '--strict', '--exactOptionalPropertyTypes', '--target', 'es2022', '--lib', 'es2023,dom', '--types', 'node']

// Fastify's own types need 5.4.
const OLDEST_TYPESCRIPT = '5.4.5'
const { version: NEWEST_TYPESCRIPT } = JSON.parse(readFileSync('node_modules/@typescript/native/package.json', 'utf8'))

for (const version of [OLDEST_TYPESCRIPT, ts.version, NEWEST_TYPESCRIPT]) {
  t.test(`TypeScript ${version} compiles a user's ES module and CommonJS module, and finds no error in the package's own types`, async t => {
    const tsc = join('node_modules', 'typescript', 'bin', 'tsc')
    await write({ 'user.mts': user, 'user.cts': user, 'whole.cts': userOfRequire })
    await install(`typescript@${version}`, '@types/node@20', 'ioredis@5')
    const faults = await run(process.execPath, [tsc, ...strict, '--module', 'node16', 'user.mts', 'user.cts', 'whole.cts']).then(() => '', error => error.message)
    // The types of a dependency may contain errors.
    t.strictSame(faults.split('\n').filter((line: string) => line.includes('error TS') && !/^node_modules\/(?!octa-star-streams\/)/.test(line)), [])
    // If the types of other packages are ignored, no error may be left.
    t.equal(await run(process.execPath, [tsc, ...strict, '--skipLibCheck', '--module', 'nodenext', 'user.mts', 'user.cts', 'whole.cts']), '', 'skipLibCheck')
  })
}

t.test('the README names the oldest TypeScript', async t => {
  t.match(await readFile(join(root, 'README.md'), 'utf8'), `TypeScript ${OLDEST_TYPESCRIPT.replace(/\.\d+$/, '')} or later`)
})

t.test('the types of the entry point name every export of lib/index.ts', async t => {
  const options = { module: ts.ModuleKind.NodeNext, allowImportingTsExtensions: true, noEmit: true }
  const [source, entry] = ['lib/index.ts', 'index.d.cts'].map(file => join(root, file)) as [string, string]
  const program = ts.createProgram([source, entry], options)
  const checker = program.getTypeChecker()
  const exportsOf = (file: string) => checker.getExportsOfModule(checker.getSymbolAtLocation(program.getSourceFile(file)!)!).map(({ name }) => name).filter(name => name !== 'export=' && name !== 'prototype').sort()
  t.ok(exportsOf(source).length > 20)
  t.strictSame(exportsOf(entry), exportsOf(source))
})

t.test('the package ships the build, its sources for the source maps, and nothing else', async t => {
  t.strictSame(packedFiles.filter(path => !/^(dist|lib|types)\//.test(path)).sort(), ['CHANGELOG.md', 'LICENSE', 'README.md', 'index.cjs', 'index.d.cts', 'package.json'])
  t.strictSame(packedFiles.filter(path => /test|tst|example|bench/.test(path)), [])
  for (const path of ['dist/package.json', 'dist/lib/index.js', 'dist/lib/index.d.ts', 'dist/lib/index.js.map', 'dist/lib/browser/tab-id.mjs', 'lib/index.ts', 'types/index.ts']) t.ok(packedFiles.includes(path), path)
})

t.test('a stack trace names the source file and line, with source maps', async t => {
  await write({ 'fault.cjs': "const { streamKey } = require('octa-star-streams')\ntry { streamKey(undefined) } catch (error) { console.log(error.stack) }" })
  t.match(await run(process.execPath, ['--enable-source-maps', 'fault.cjs']), /octa-star-streams\/lib\/registry\/stream-key\.ts:\d+/)
})

t.test('@arethetypeswrong/cli and publint report nothing', async t => {
  // The strictest profile covers every way to resolve modules.
  t.match(await run(bin('attw'), [tarball, '--profile', 'strict', '--no-color'], root), /No problems found/)
  t.match(await run(bin('publint'), ['run', tarball, '--strict'], root), /All good!/)
})
