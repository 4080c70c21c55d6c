// The programs of docs/guide.md: puts the blocks of each step into files, as the first line of each block says.
import { blocksOf } from './document.ts'

export interface Step {
  /** The heading of the step, such as `Step 2: an order reaches the user's tabs`. */
  readonly heading: string
  /** The files of the program after this step: the text of each file by its name. */
  readonly files: Readonly<Record<string, string>>
}

/** The steps of the guide in their order. Throws if a block does not say where it belongs, or if that place does not exist. */
export function guideSteps (): Step[] {
  const steps: Step[] = []
  const files: Record<string, string> = {}
  for (const { heading, language, code, line } of blocksOf('docs/guide.md')) {
    if (language === 'sh') continue
    const [, file, place] = /^\/\/ (\w+\.mjs)(?:, (.+))?\n/.exec(code) ?? []
    if (language !== 'js' || file === undefined) throw new Error(`docs/guide.md:${line}: the block does not say in which file it belongs`)
    const placed = insert(files[file], place, code.slice(code.indexOf('\n') + 1))
    if (placed === undefined) throw new Error(`docs/guide.md:${line}: ${file} has no such place: ${place}`)
    files[file] = placed
    if (steps.at(-1)?.heading === heading) steps.pop()
    steps.push({ heading, files: { ...files } })
  }
  return steps
}

function insert (file: string | undefined, place: string | undefined, code: string): string | undefined {
  if (place === undefined) return file === undefined ? code : undefined
  if (file === undefined) return undefined
  if (place === 'in place of the whole file') return code
  const [from, to] = place === 'above the last line'
    ? [file.trimEnd().lastIndexOf('\n') + 1, file.trimEnd().lastIndexOf('\n') + 1]
    : found(file, place === 'in place of the route /stream'
      ? /^fastify\.get\('\/stream'.+?^\}\)\n/ms
      : /^await fastify\.register\(octaStarStreams.*\n/m)
  if (from === undefined) return undefined
  return `${file.slice(0, from)}${code}\n${file.slice(to)}`
}

function found (file: string, part: RegExp): [number, number] | [] {
  const match = part.exec(file)
  return match === null ? [] : [match.index, match.index + match[0].length]
}
