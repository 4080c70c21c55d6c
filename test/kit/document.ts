// The code blocks of a document, and how a test runs a block.
import { readFileSync } from 'node:fs'

export interface Block {
  /** The heading above the block. */
  readonly heading: string
  readonly language: string
  readonly code: string
  /** The line of the code's beginning. */
  readonly line: number
}

/** The text of a document of the repository. */
export function read (file: string): string {
  return readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8')
}

export function blocksOf (file: string): Block[] {
  const text = read(file)
  const blocks: Block[] = []
  let heading = ''
  for (const { 1: title, 2: language, 3: code, index } of text.matchAll(/^#+ ([^\n]+)$|^```(\w*)[^\n]*\n(.*?)^```$/gms)) {
    if (title !== undefined) heading = title
    else blocks.push({ heading, language: language!, code: code!, line: lineAt(text, index) + 1 })
  }
  return blocks
}

/** Whether a block shows code for another library, which the tests neither run nor compile: the first line is a comment that begins with `Before`. */
export function isBefore ({ code }: Block): boolean {
  return /^(?:\/\/|#) Before\b/.test(code)
}

/** The number of the line at `index`, from 1. */
export function lineAt (text: string, index: number): number {
  return text.slice(0, index).split('\n').length
}

/** Runs `code` as the body of an async function. Imports become calls of `load`, and `returns` names what the test wants of the block. */
export async function runBlock (code: string, load: (name: string) => Promise<object>, scope: Record<string, unknown> = {}, ...returns: string[]): Promise<any> {
  const body = code
    .replaceAll(/^import (\w+) from '(.+)'$/gm, "const { default: $1 } = await load('$2')")
    .replaceAll(/^import (\{.+\}) from '(.+)'$/gm, (_import, names, from) => `const ${names.replaceAll(' as ', ': ')} = await load('${from}')`)
    .replace(/^export default /m, 'const exported = ')
  const AsyncFunction = (async () => {}).constructor as FunctionConstructor
  return AsyncFunction('load', ...Object.keys(scope), `${body}\nreturn { ${returns.join()} }`)(load, ...Object.values(scope))
}
