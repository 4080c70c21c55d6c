// octa-star-streams/browser as a file that a page loads without a bundler.
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'

export interface BrowserFile {
  body: string
  etag: string
}

/** The module, which also sets `octaStar.tabId`: an attribute's expression cannot import. */
export async function browserFile (): Promise<BrowserFile> {
  const built = fileURLToPath(import.meta.resolve('octa-star-streams/browser'))
  const source = (await readFile(built, 'utf8')).replace(/\/\/# sourceMappingURL=.*\n?/, '')
  const body = `${source}\nglobalThis.octaStar = { tabId }\n`
  return { body, etag: `"${createHash('sha256').update(body).digest('base64url')}"` }
}
