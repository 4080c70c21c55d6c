// The packed tarball with bundlers, test runners, ts-node, and Yarn without node_modules. Each of these tools loads an application with the
// option `browser`, which serves the page's module. The tools are installed in a temporary folder, because they are larger than all other
// packages of the tests together.
import { copyFile, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { install, project, run, tarball, write } from './kit/packed.ts'

const TOOLS = {
  esbuild: '0.28.2',
  rollup: '4.68.8',
  '@rollup/plugin-commonjs': '29.0.3',
  '@rollup/plugin-json': '6.1.0',
  '@rollup/plugin-node-resolve': '16.0.3',
  rolldown: '1.3.2',
  vite: '8.3.8',
  webpack: '5.112.2',
  '@vercel/ncc': '0.45.0',
  jest: '30.5.2',
  vitest: '4.1.12',
  'ts-node': '10.9.2',
  typescript: '5.9.3',
  '@types/node': '20.19.43',
  '@yarnpkg/cli-dist': '4.18.1'
}

// Starts the server, requests the module and the end of a replaced stream, and returns the responses.
const main = `
export async function main () {
  const fastify = Fastify()
  await fastify.register(octaStarStreams, { browser: '/tab-id.js' })
  fastify.get('/stream', { sse: 'only' }, async (request, reply) => (await reply.startStream('ann')).keepAlive())
  const url = await fastify.listen({ port: 0, host: '127.0.0.1' })
  const module = await fetch(url + '/tab-id.js')
  const stream = url + '/stream?datastar=' + encodeURIComponent('{"tabId":"a"}')
  const [first] = [await fetch(stream), await fetch(stream)]
  const end = (await first.text()).split('\\n').at(-3)
  await fastify.close()
  return [module.status, module.headers.get('content-type'), await module.text(), end, streamKey('ann', 'a').scope].join('\\n')
}
`
const imports = "import Fastify from 'fastify'\nimport octaStarStreams, { streamKey } from 'octa-star-streams'\n"

await install(tarball, 'fastify@5', ...Object.entries(TOOLS).map(([name, version]) => `${name}@${version}`))
await write({
  'main.mjs': imports + main,
  'app.mjs': `${imports}${main}main().then(result => console.log(result))`,
  'app.cjs': `const Fastify = require('fastify')\nconst octaStarStreams = require('octa-star-streams')\nconst { streamKey } = octaStarStreams\n${main.replace('export ', '')}module.exports = { main }`
})

const served = await readFile(join(project, 'node_modules/octa-star-streams/dist/lib/browser/tab-id.mjs'), 'utf8')
const expected = ['200', 'text/javascript; charset=utf-8', served, 'globalThis.octaStar = { tabId }', '', 'data: replaced', '"ann"'].join('\n')

// A folder without node_modules: a bundle that imports a package does not start there.
const elsewhere = await mkdtemp(join(tmpdir(), 'octa-star-bundles-'))
t.teardown(() => rm(elsewhere, { recursive: true, force: true }))

// In an ES module esbuild does not change the `require()` of Node's built-in modules.
const banner = "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url)"

/** Programs that bundle app.mjs with all its imports, as an ES module and as a CommonJS module. */
const BUNDLERS: Record<string, string> = {
  esbuild: `
    import { build } from 'esbuild'
    const options = { entryPoints: ['app.mjs'], bundle: true, platform: 'node', minify: true }
    await build({ ...options, format: 'esm', outfile: 'out/esbuild.mjs', banner: { js: ${JSON.stringify(banner)} } })
    await build({ ...options, format: 'cjs', outfile: 'out/esbuild.cjs' })`,
  rollup: `
    import { rollup } from 'rollup'
    import commonjs from '@rollup/plugin-commonjs'
    import json from '@rollup/plugin-json'
    import { nodeResolve } from '@rollup/plugin-node-resolve'
    const bundle = await rollup({ input: 'app.mjs', plugins: [nodeResolve({ preferBuiltins: true }), commonjs(), json()], onLog () {} })
    await bundle.write({ format: 'es', file: 'out/rollup.mjs', inlineDynamicImports: true })
    await bundle.write({ format: 'cjs', file: 'out/rollup.cjs', inlineDynamicImports: true })`,
  rolldown: `
    import { build } from 'rolldown'
    const options = { input: 'app.mjs', platform: 'node', logLevel: 'silent' }
    await build({ ...options, output: { format: 'esm', file: 'out/rolldown.mjs' } })
    await build({ ...options, output: { format: 'cjs', file: 'out/rolldown.cjs' } })`,
  vite: `
    import { build } from 'vite'
    for (const [format, name] of [['es', 'vite.mjs'], ['cjs', 'vite.cjs']]) {
      const output = { format, entryFileNames: name }
      await build({ logLevel: 'silent', ssr: { noExternal: true }, build: { ssr: 'app.mjs', outDir: 'out', emptyOutDir: false, rollupOptions: { output } } })
    }`,
  webpack: `
    import webpack from 'webpack'
    import { promisify } from 'node:util'
    const options = { mode: 'production', target: 'node20', entry: './app.mjs', optimization: { minimize: false } }
    for (const [filename, module] of [['webpack.mjs', true], ['webpack.cjs', false]]) {
      const output = { path: process.cwd() + '/out', filename, module, chunkFormat: module ? 'module' : 'commonjs' }
      const stats = await promisify(webpack)({ ...options, output, experiments: { outputModule: module } })
      if (stats.hasErrors()) throw new Error(stats.toString())
    }`,
  ncc: `
    import ncc from '@vercel/ncc'
    import { writeFile } from 'node:fs/promises'
    for (const [entry, out] of [['app.mjs', 'ncc.mjs'], ['run.cjs', 'ncc.cjs']]) {
      const { code } = await ncc(process.cwd() + '/' + entry, { quiet: true, cache: false })
      await writeFile('out/' + out, code)
    }`
}
await write({ 'run.cjs': "require('./app.cjs').main().then(result => console.log(result))", 'out/package.json': '{}' })

t.test('the application prints the expected lines without a bundler', async t => {
  t.equal(await run(process.execPath, ['app.mjs']), `${expected}\n`)
  t.equal(await run(process.execPath, ['run.cjs']), `${expected}\n`)
})

for (const [name, code] of Object.entries(BUNDLERS)) {
  t.test(`a bundle of ${name} serves the page's module, as an ES module and as a CommonJS module`, async t => {
    await write({ [`bundle-${name}.mjs`]: code })
    await run(process.execPath, [`bundle-${name}.mjs`])
    for (const output of [`${name}.mjs`, `${name}.cjs`]) {
      await copyFile(join(project, 'out', output), join(elsewhere, output))
      t.equal(await run(process.execPath, [output], elsewhere), `${expected}\n`, output)
    }
  })
}

t.test('Jest runs a CommonJS test of an application', async t => {
  await write({
    'jest/app.test.js': `const { main } = require('../app.cjs')\ntest('serves', async () => { expect(await main()).toBe(${JSON.stringify(expected)}) })`,
    'jest/package.json': '{}'
  })
  await t.resolves(run(process.execPath, ['node_modules/jest/bin/jest.js', '--rootDir', 'jest', '--config', '{}']))
})

t.test('vitest runs a test of an application', async t => {
  await write({
    'vitest/app.test.js': `import { expect, test } from 'vitest'\nimport { main } from '../main.mjs'\ntest('serves', async () => { expect(await main()).toBe(${JSON.stringify(expected)}) })`
  })
  await t.resolves(run(process.execPath, ['node_modules/vitest/vitest.mjs', 'run', '--dir', 'vitest']))
})

t.test('ts-node runs an application in TypeScript', async t => {
  await write({
    'ts-node/app.ts': `${imports}${main}main().then(result => console.log(result))`,
    'ts-node/tsconfig.json': '{ "compilerOptions": { "module": "commonjs", "target": "es2022", "strict": true, "skipLibCheck": true, "esModuleInterop": true, "types": ["node"] } }'
  })
  t.equal(await run(process.execPath, ['node_modules/ts-node/dist/bin.js', 'ts-node/app.ts']), `${expected}\n`)
})

t.test('Yarn installs the package without node_modules, and an application loads it with import and with require()', async t => {
  const registry = (await run('npm', ['config', 'get', 'registry'])).trim()
  await write({
    'yarn/package.json': '{ "private": true }',
    'yarn/yarn.lock': '',
    'yarn/.yarnrc.yml': JSON.stringify({ nodeLinker: 'pnp', enableGlobalCache: false, enableTelemetry: false, npmRegistryServer: registry, unsafeHttpWhitelist: ['*'] }),
    'yarn/app.mjs': `${imports}${main}main().then(result => console.log(result))`,
    'yarn/app.cjs': await readFile(join(project, 'app.cjs'), 'utf8'),
    'yarn/run.cjs': "require('./app.cjs').main().then(result => console.log(result))"
  })
  const folder = join(project, 'yarn')
  const yarn = join(project, 'node_modules/@yarnpkg/cli-dist/bin/yarn.js')
  await run(process.execPath, [yarn, 'add', `octa-star-streams@file:${tarball}`, 'fastify@5'], folder)
  for (const file of ['app.mjs', 'run.cjs']) t.equal(await run(process.execPath, [yarn, 'node', file], folder), `${expected}\n`, file)
})
