// Preloaded with `--import`, lets Node 20 run TypeScript: removes the types of a file when Node loads the file. Later versions of
// Node remove types themselves (https://nodejs.org/api/typescript.html). The runs that measure coverage use tap's own compiler instead.
import { register } from 'node:module'
import { isMainThread } from 'node:worker_threads'
import { stripped } from './stripped.js'

// Node runs the hooks in a separate thread, and loads this file there once more.
if (isMainThread) register(import.meta.url)

export async function load (url, context, nextLoad) {
  if (!url.startsWith('file:') || !url.endsWith('.ts')) return await nextLoad(url, context)
  return { format: 'module', source: await stripped(url), shortCircuit: true }
}
