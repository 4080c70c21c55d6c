// The code blocks of the README.
import { readFileSync } from 'node:fs'

export interface Block { heading: string, language: string, code: string }

export const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8')

export function blocks (): Block[] {
  const found: Block[] = []
  let heading = ''
  for (const [, title, language, code] of readme.matchAll(/^#+ ([^\n]+)$|^```(\w*)\n(.*?)^```$/gms)) {
    if (title !== undefined) heading = title
    else found.push({ heading, language: language!, code: code! })
  }
  return found
}
