// The rooms of lib, which are groups of files: imports between rooms go in a single direction, and files never form a cycle, type imports included.
import { readdir, readFile } from 'node:fs/promises'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import ts from 'typescript'

const root = fileURLToPath(new URL('..', import.meta.url))

// Each room may import from itself and from the rooms it names.
const ROOMS: Record<string, string[]> = {
  types: [],
  // The files that every room uses.
  'lib/errors.ts': ['types'],
  'lib/wait.ts': [],
  'lib/list.ts': [],
  'lib/observer.ts': [],
  'lib/delay-queue.ts': ['lib/wait.ts', 'lib/list.ts'],
  'lib/diagnostics.ts': ['types'],
  'lib/event.ts': ['types', 'lib/errors.ts'],
  'lib/http': ['types', 'lib/errors.ts', 'lib/wait.ts', 'lib/delay-queue.ts', 'lib/event.ts'],
  'lib/stream': ['types', 'lib/errors.ts', 'lib/wait.ts', 'lib/diagnostics.ts', 'lib/event.ts', 'lib/observer.ts', 'lib/http'],
  'lib/registry': ['types', 'lib/errors.ts', 'lib/wait.ts', 'lib/list.ts', 'lib/delay-queue.ts', 'lib/diagnostics.ts', 'lib/event.ts', 'lib/observer.ts'],
  'lib/redis': ['types', 'lib/errors.ts', 'lib/wait.ts', 'lib/delay-queue.ts', 'lib/diagnostics.ts'],
  'lib/browser': [],
  // The files that only index uses, and the entries of the package.
  'lib/options.ts': ['types', 'lib/errors.ts'],
  'lib/browser-module.ts': [],
  'lib/start.ts': ['types', 'lib/http', 'lib/stream', 'lib/registry'],
  'lib/framework.ts': ['types', 'lib/errors.ts', 'lib/http', 'lib/stream'],
  'lib/conformance.ts': ['types', 'lib/wait.ts', 'lib/registry'],
  'lib/datastar.ts': ['types', 'lib/wait.ts', 'lib/http'],
  'lib/index.ts': ['types', 'lib/errors.ts', 'lib/diagnostics.ts', 'lib/http', 'lib/stream', 'lib/registry', 'lib/start.ts', 'lib/framework.ts', 'lib/options.ts', 'lib/browser-module.ts']
}

async function sources (folder: string): Promise<string[]> {
  const names = await readdir(join(root, folder), { recursive: true })
  return names.filter(name => name.endsWith('.ts') && !name.endsWith('.tst.ts')).map(name => `${folder}/${name}`)
}

/** The files of this package that `file` imports or re-exports, as paths from the root. */
async function importsOf (file: string): Promise<string[]> {
  const { importedFiles } = ts.preProcessFile(await readFile(join(root, file), 'utf8'), true, true)
  return importedFiles.map(({ fileName }) => fileName).filter(name => name.startsWith('.')).map(name => relative(root, resolve(root, dirname(file), name)))
}

const roomOf = (file: string): string | undefined => Object.keys(ROOMS).find(room => file === room || file.startsWith(`${room}/`))

const files = [...await sources('lib'), ...await sources('types')]
const imports = new Map(await Promise.all(files.map(async file => [file, await importsOf(file)] as const)))

t.test('every file belongs to a room', async t => {
  t.ok(files.length > 20, `${files.length} files`)
  t.strictSame(files.filter(file => roomOf(file) === undefined), [])
})

t.test('a file imports only from its own room and from the rooms below', async t => {
  const wrong = files.flatMap(file => imports.get(file)!
    .filter(imported => roomOf(imported) !== roomOf(file) && !ROOMS[roomOf(file)!]!.includes(roomOf(imported)!))
    .map(imported => `${file} imports ${imported}`))
  t.strictSame(wrong, [])
})

t.test('no file imports itself through other files', async t => {
  const finished = new Set<string>()
  const cycles: string[] = []
  const visit = (file: string, path: string[]): void => {
    if (path.includes(file)) cycles.push([...path.slice(path.indexOf(file)), file].join(' -> '))
    if (path.includes(file) || finished.has(file)) return
    for (const imported of imports.get(file) ?? []) visit(imported, [...path, file])
    finished.add(file)
  }
  for (const file of files) visit(file, [])
  t.strictSame(cycles, [])
})
