// The test files and sources without their types, for Node 20. What esbuild returns is kept on disk, because all test files load the same
// sources, each in a process of its own.
import { createHash } from 'node:crypto'
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { threadId } from 'node:worker_threads'

const cache = new URL('../../node_modules/.cache/strip-types/', import.meta.url)
const { version } = createRequire(import.meta.url)('esbuild/package.json')

/** Resolves to the JavaScript of the TypeScript file at `url`. */
export async function stripped (url) {
  const source = await readFile(new URL(url), 'utf8')
  const options = { loader: 'ts', format: 'esm', target: 'es2023', sourcefile: url, sourcemap: 'inline' }
  const key = createHash('sha256').update(JSON.stringify([version, options, source])).digest('hex')
  const file = new URL(`${key}.js`, cache)
  return await readFile(file, 'utf8').catch(() => stripTypes(source, options, file))
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
