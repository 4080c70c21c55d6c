// The packed tarball, in an empty project: it installs, imports, requires, and holds what it should.
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import './kit/build.js'

const root = fileURLToPath(new URL('..', import.meta.url))
// Not this process's options: coverage of what runs there is none of ours.
const { NODE_OPTIONS, NODE_V8_COVERAGE, ...env } = process.env
const run = async (file: string, args: string[], cwd: string) => (await promisify(execFile)(file, args, { cwd, env, maxBuffer: 1 << 24 })).stdout
const bin = (name: string) => join(root, 'node_modules', '.bin', name)

const project = await mkdtemp(join(tmpdir(), 'octa-star-streams-'))
t.teardown(() => rm(project, { recursive: true, force: true }))
const [packed] = JSON.parse(await run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', project], root))
const tarball = join(project, packed.filename)

// Starts a stream, replaces it, and prints how the first ended.
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

t.test('it installs beside Fastify in an empty project, and works with import and with require()', async t => {
  await writeFile(join(project, 'package.json'), '{ "private": true }')
  await run('npm', ['install', '--no-audit', '--no-fund', tarball, 'fastify@5'], project)
  await writeFile(join(project, 'import.mjs'), `import Fastify from 'fastify'\nimport octaStarStreams, { streamKey } from 'octa-star-streams'\n${use}`)
  await writeFile(join(project, 'require.cjs'), `const Fastify = require('fastify')\nconst octaStarStreams = require('octa-star-streams')\nconst { streamKey } = octaStarStreams\n;(async () => {${use}})()`)
  t.equal(await run(process.execPath, ['import.mjs'], project), 'data: replaced "ann"\n')
  t.equal(await run(process.execPath, ['require.cjs'], project), 'data: replaced "ann"\n')
})

t.test('its other entries import too: the page\'s module also where there is no page, the Datastar methods once the SDK is there', async t => {
  await writeFile(join(project, 'browser.mjs'), "import { tabId } from 'octa-star-streams/browser'\nconsole.log(tabId().length)")
  t.equal(await run(process.execPath, ['browser.mjs'], project), '32\n')
  const code = "import { datastar, readSignals } from 'octa-star-streams/datastar'\nconsole.log(typeof datastar, typeof readSignals)"
  await writeFile(join(project, 'datastar.mjs'), code)
  await t.rejects(run(process.execPath, ['datastar.mjs'], project), /@starfederation\/datastar-sdk/)
  await run('npm', ['install', '--no-audit', '--no-fund', '@starfederation/datastar-sdk@1'], project)
  t.equal(await run(process.execPath, ['datastar.mjs'], project), 'function function\n')
})

t.test('the tests for adapters import without a test runner', async t => {
  const code = "import { testCluster } from 'octa-star-streams/conformance'\nlet tests = 0\nawait testCluster({ test () { tests++ } })\nconsole.log(tests > 20)"
  await writeFile(join(project, 'conformance.mjs'), code)
  t.equal(await run(process.execPath, ['conformance.mjs'], project), 'true\n')
})

t.test('a TypeScript user gets reply.startStream, without looking into the types of dependencies', async t => {
  await writeFile(join(project, 'user.ts'), `
    import Fastify from 'fastify'
    import octaStarStreams, { type Stream } from 'octa-star-streams'
    const fastify = Fastify()
    await fastify.register(octaStarStreams, { closeGrace: 500 })
    fastify.get('/stream', { sse: 'only' }, async (request, reply) => {
      const stream: Stream = await reply.startStream(['ann', 7])
      await stream.send({ event: 'hello', data: { size: fastify.streamRegistry.size } })
    })
    // @ts-expect-error a scope key is never undefined
    fastify.get('/wrong', { sse: 'only' }, async (request, reply) => { await reply.startStream(undefined) })
  `)
  const options = ['--noEmit', '--strict', '--skipLibCheck', '--module', 'nodenext', '--target', 'es2022', '--types', 'node', '--typeRoots', join(root, 'node_modules', '@types')]
  await writeFile(join(project, 'package.json'), JSON.stringify({ ...JSON.parse(await readFile(join(project, 'package.json'), 'utf8')), type: 'module' }))
  t.equal(await run(bin('tsc'), [...options, 'user.ts'], project), '')
})

t.test('it ships the build, its sources for the source maps, and nothing else', async t => {
  const files = packed.files.map((file: { path: string }) => file.path)
  t.strictSame(files.filter((path: string) => !/^(dist|lib|types)\//.test(path)).sort(), ['CHANGELOG.md', 'LICENSE', 'README.md', 'package.json'])
  t.strictSame(files.filter((path: string) => /test|tst|example|bench/.test(path)), [])
  for (const path of ['dist/lib/index.js', 'dist/lib/index.d.ts', 'dist/lib/index.js.map', 'lib/index.ts', 'types/index.ts']) t.ok(files.includes(path), path)
})

t.test('@arethetypeswrong/cli and publint have nothing to say', async t => {
  // It warns about CommonJS, which has no `require` of ESM in its book: test above. Its exit code is 0 if that is all.
  await t.resolves(run(bin('attw'), [tarball, '--profile', 'esm-only', '--no-color'], root))
  t.match(await run(bin('publint'), ['run', tarball, '--strict'], root), /All good!/)
})
