// The browser's half, as the plugin serves it: its type, its caching, its size.
import { transform } from 'esbuild'
import t from 'tap'
import ts from 'typescript'
import { buildApp } from './kit/app.ts'

t.test('it is served where the option says, as a module that also sets octaStar', async t => {
  const { fastify } = await buildApp(t, { browser: '/octa-star/tab-id.js' })
  const response = await fastify.inject('/octa-star/tab-id.js')
  t.equal(response.statusCode, 200)
  t.equal(response.headers['content-type'], 'text/javascript; charset=utf-8')
  t.match(response.body, /export function tabId/)
  t.match(response.body, /globalThis\.octaStar = \{ tabId \}/)
  t.notMatch(response.body, /^\s*import|sourceMappingURL/m)
})

t.test('it is what tsc builds from lib/browser/tab-id.ts', async t => {
  const { fastify } = await buildApp(t, { browser: '/tab-id.js' })
  const { config } = ts.readConfigFile('tsconfig.browser.json', ts.sys.readFile)
  const { options, fileNames } = ts.parseJsonConfigFileContent(config, ts.sys, '.')
  const built = new Map<string, string>()
  ts.createProgram(fileNames, { ...options, module: ts.ModuleKind.ESNext, sourceMap: false, declaration: false, declarationMap: false })
    .emit(undefined, (name, text) => { built.set(name, text) })
  t.strictSame([...built.keys()], ['dist/lib/browser/tab-id.js'])
  t.equal((await fastify.inject('/tab-id.js')).body, `${[...built.values()][0]}\nglobalThis.octaStar = { tabId }\n`)
})

t.test('it is asked for anew each time, unless its address has a version', async t => {
  const { fastify } = await buildApp(t, { browser: '/tab-id.js' })
  const plain = await fastify.inject('/tab-id.js')
  t.equal(plain.headers['cache-control'], 'no-cache')
  const versioned = await fastify.inject('/tab-id.js?v=1')
  t.equal(versioned.headers['cache-control'], 'public, max-age=31536000, immutable')
  t.equal(versioned.headers.etag, plain.headers.etag)
  const again = await fastify.inject({ url: '/tab-id.js', headers: { 'if-none-match': `"other", W/${plain.headers.etag}` } })
  t.equal(again.statusCode, 304)
  t.equal(again.body, '')
})

t.test('it is under 1 KB minified', async t => {
  const { fastify } = await buildApp(t, { browser: '/tab-id.js' })
  const { code } = await transform((await fastify.inject('/tab-id.js')).body, { minify: true, format: 'esm' })
  t.ok(code.length < 1024, `${code.length} bytes`)
})

t.test('it is not served unless asked for', async t => {
  const { fastify } = await buildApp(t)
  t.equal((await fastify.inject('/octa-star/tab-id.js')).statusCode, 404)
})

t.test('outside a page the import is safe, and tabId() says that it needs a page', async t => {
  const { fastify } = await buildApp(t, { browser: '/tab-id.js' })
  const { body } = await fastify.inject('/tab-id.js')
  const { tabId } = await import(`data:text/javascript,${encodeURIComponent(body)}`)
  t.throws(tabId, { message: 'No tab: call tabId() in a page' })
})
