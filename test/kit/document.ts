// The code blocks of a document, run with lookups instead of imports.
import { readFileSync } from 'node:fs'

/** The code of the first block under `heading`. */
export function blockOf (file: string, heading: string): string {
  const text = readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8')
  const section = text.split(/^## /m).find(part => part.startsWith(`${heading}\n`))
  const code = section === undefined ? undefined : /^```js\n(.*?)^```$/ms.exec(section)?.[1]
  if (code === undefined) throw new Error(`${file} has no block under '${heading}'`)
  return code
}

/** The headings of `file` that have a block of code. */
export function headingsOf (file: string): string[] {
  const text = readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8')
  return text.split(/^## /m).filter(part => part.includes('\n```js\n')).map(part => part.slice(0, part.indexOf('\n')))
}

/** `code` without imports and exports, as the body of an async function with the parameter `load`. Returns `returns`. */
export function bodyOf (code: string, ...returns: string[]): string {
  const body = code
    .replaceAll(/^import (\w+) from '(.+)'$/gm, "const { default: $1 } = await load('$2')")
    .replaceAll(/^import (\{.+\}) from '(.+)'$/gm, "const $1 = await load('$2')")
    .replace(/^export default /m, 'const exported = ')
  return `${body}\nreturn { ${returns.join()} }`
}

export async function runBlock (code: string, load: (name: string) => Promise<object>, scope: Record<string, unknown> = {}, ...returns: string[]): Promise<any> {
  const AsyncFunction = (async () => {}).constructor as FunctionConstructor
  return AsyncFunction('load', ...Object.keys(scope), bodyOf(code, ...returns))(load, ...Object.values(scope))
}
