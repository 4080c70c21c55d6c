// Preloaded with `--import`, lets Node 20 run TypeScript: esbuild removes the types of a file when Node loads the file. Later versions of
// Node remove types themselves (https://nodejs.org/api/typescript.html). The runs that measure coverage use tap's own compiler instead.
// What esbuild returns is kept on disk, because all test files load the same sources, each in a process of its own.
import { createHash } from 'node:crypto'
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { createRequire, register } from 'node:module'
import { isMainThread, threadId } from 'node:worker_threads'

const cache = new URL('../../node_modules/.cache/strip-types/', import.meta.url)
const { version } = createRequire(import.meta.url)('esbuild/package.json')

// Node runs the hooks in a separate thread, and loads this file there once more.
if (isMainThread) register(import.meta.url)

export async function load (url, context, nextLoad) {
  if (!url.startsWith('file:') || !url.endsWith('.ts')) return await nextLoad(url, context)
  const source = await readFile(new URL(url), 'utf8')
  const options = { loader: 'ts', format: 'esm', target: 'es2023', sourcefile: url, sourcemap: 'inline' }
  const key = createHash('sha256').update(JSON.stringify([version, options, source])).digest('hex')
  const file = new URL(`${key}.js`, cache)
  return { format: 'module', source: await readFile(file, 'utf8').catch(() => stripTypes(source, options, file)), shortCircuit: true }
}

async function stripTypes (source, options, file) {
  const { transform } = await import('esbuild')
  const { code } = await transform(source, options)
  await mkdir(cache, { recursive: true })
  // Another process may read the file at this moment, or write the same file.
  const draft = new URL(`${file}.${process.pid}.${threadId}`)
  await writeFile(draft, code)
  await rename(draft, file)
  return code
}
