// Reads the module `octa-star-streams/browser` for pages without a bundler.
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'

export interface BrowserModule {
  readonly body: string
  readonly etag: string
}

/** The module also sets the global `octaStar.tabId`, because an expression in an HTML attribute cannot import. */
export async function readBrowserModule (): Promise<BrowserModule> {
  const built = fileURLToPath(import.meta.resolve('octa-star-streams/browser'))
  const source = (await readFile(built, 'utf8')).replace(/\/\/# sourceMappingURL=.*\n?/, '')
  const body = `${source}\nglobalThis.octaStar = { tabId }\n`
  return { body, etag: `"${createHash('sha256').update(body).digest('base64url')}"` }
}
