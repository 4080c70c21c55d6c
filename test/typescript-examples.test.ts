// Each example of the documents and of the docstrings compiles in a TypeScript project, under `strict`.
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import ts from 'typescript'
import { blocksOf, isBefore, lineAt, read } from './kit/document.ts'
import { guideSteps } from './kit/guide.ts'
import { root } from './kit/run.ts'

interface Example {
  /** `file:line` of the first line of code, and for a block of a document the heading above the block. */
  name: string
  file: string
  line: number
  code: string
  prelude: Record<string, string>
  /** If the code is not a statement but a property such as `browser: '/tab-id.js'`: the interface with that property. */
  propertyOf?: string
}

/** Blocks of the documents in these languages contain no TypeScript. */
const OTHER_LANGUAGES = ['sh', 'html', 'json', 'nginx', 'text', 'elixir']

/** Blocks of the documents in JavaScript that are not meant for TypeScript: the heading above the block, and the reason. */
const SKIPPED: Record<string, string> = {
  NestJS: 'a method of a class. The class is in examples/nestjs, which test/nestjs.test.ts compiles',
  Metrics: '@types/node gives the message of every diagnostics channel the type `unknown`, so TypeScript needs a cast that JavaScript does not have',
  Presence: 'as in Metrics',
  'prom-client': 'as in Metrics',
  OpenTelemetry: 'as in Metrics',
  'fetch-event-source': 'code of a page, which test/browser/recipes.test.ts bundles and runs',
  'Service worker': 'as in fetch-event-source',
  'The body decides': 'the type of the body must be named, which the text below the block says',
  Errors: 'the type of the error must be named, which the text below the block says'
}

/** The names that a block of a document may use without a declaration, because an earlier block or the reader's application declares them. */
const DOCUMENTS_PRELUDE = {
  gateway: "declare const gateway: import('fastify').FastifyInstance",
  upstream: 'declare const upstream: string',
  redisOptions: "declare const redisOptions: import('ioredis').RedisOptions",
  start: 'declare const start: () => Promise<void>',
  fastify: "declare const fastify: import('fastify').FastifyInstance",
  octaStarStreams: "import octaStarStreams from 'octa-star-streams'",
  news: 'declare const news: { subscribe (listener: (item: object) => void): () => void }',
  tabId: 'declare const tabId: string',
  endSessions: 'declare const endSessions: (user: string) => Promise<void>',
  placeOrder: "declare const placeOrder: (request: import('fastify').FastifyRequest) => Promise<{ stock: number }>",
  once: "import { once } from 'node:events'",
  readOrders: "declare const readOrders: () => AsyncIterable<import('octa-star-streams').StreamMessage>",
  subscribe: "declare const subscribe: (topic: string) => AsyncIterable<import('octa-star-streams').StreamMessage>",
  orders: 'declare const orders: { subscribe (listener: (order: { id: number }) => void): () => void }',
  log: "declare const log: import('node:events').EventEmitter & { entries: object[] }"
}

/** The names that a block of docs/adapters.md may use without a declaration. */
const ADAPTERS_PRELUDE = {
  test: "import { test } from 'node:test'",
  randomUUID: "import { randomUUID } from 'node:crypto'",
  testCluster: "import { testCluster } from 'octa-star-streams/conformance'",
  natsCluster: "import { natsCluster } from './nats-cluster.ts'",
  connect: 'declare const connect: (bucket: string, namespace?: string) => Promise<{ onMessage (listener: (message: string) => void): void }>',
  deleteBucket: 'declare const deleteBucket: (bucket: string) => Promise<void>',
  startProxy: 'declare const startProxy: () => Promise<Proxy>',
  Proxy: 'interface Proxy { port: number, cut (): void, mend (): void, close (): Promise<void> }'
}

/** The adapter that the examples import. */
const NATS_CLUSTER = "export declare function natsCluster (options: { bucket: string, port?: number }): import('octa-star-streams').ClusterAdapter\n"

/** The names that an example of a docstring, or of the pages of the API, the options and the errors, may use without a declaration. The package's own names are imported as a user imports them. */
const DOCSTRING_PRELUDE = {
  fastify: "declare const fastify: import('fastify').FastifyInstance & { redis: import('ioredis').Redis }",
  request: "declare const request: import('fastify').FastifyRequest & { user: { id: string } }",
  stream: "declare const stream: import('octa-star-streams').Stream",
  octaStarStreams: "import octaStarStreams from 'octa-star-streams'",
  streamKey: "import { streamKey } from 'octa-star-streams'",
  ScopeKey: "import type { ScopeKey } from 'octa-star-streams'",
  datastar: "import { datastar } from 'octa-star-streams/datastar'",
  readSignals: "import { readSignals } from 'octa-star-streams/datastar'",
  redisCluster: "import { redisCluster } from 'octa-star-streams/redis'",
  testCluster: "import { testCluster } from 'octa-star-streams/conformance'",
  natsCluster: "declare const natsCluster: (options: { bucket: string }) => import('octa-star-streams').ClusterAdapter",
  randomUUID: "import { randomUUID } from 'node:crypto'",
  redis: "declare const redis: import('ioredis').Redis",
  on: "import { on } from 'node:events'",
  once: "import { once } from 'node:events'",
  orders: "declare const orders: import('node:events').EventEmitter",
  user: "declare const user: { id: string }\ndeclare module 'fastify' { interface FastifyRequest { user: { id: string } } }",
  workspace: 'declare const workspace: { id: number }',
  order: 'declare const order: object',
  stock: 'declare const stock: object',
  row: 'declare const row: string',
  readOrders: "declare const readOrders: () => AsyncIterable<import('octa-star-streams').StreamMessage>",
  subscription: 'declare const subscription: { unsubscribe (): Promise<void> }',
  socket: "declare const socket: import('node:events').EventEmitter & { close (code?: number, reason?: string): void }",
  tabId: 'declare const tabId: string',
  sleep: "import { setTimeout as sleep } from 'node:timers/promises'",
  identify: "declare const identify: (request: import('fastify').FastifyRequest) => Promise<{ user?: { id: string }, sessionId: string }>"
}

/** The names that an example in the page's module may use. */
const BROWSER_PRELUDE = {
  tabId: "import { tabId } from 'octa-star-streams/browser'",
  EventSource: 'declare const EventSource: new (url: string) => EventTarget'
}

const unknownLanguages: string[] = []
const skipped: string[] = []

function examplesIn (file: string, prelude: Record<string, string>): Example[] {
  // A `ts` block of docs/api.md is a declaration of the types, which test/reference.test.ts compares with the types.
  const isDeclaration = (language: string) => file === 'docs/api.md' && language === 'ts'
  return blocksOf(file).filter(block => !OTHER_LANGUAGES.includes(block.language) && !isBefore(block) && !isDeclaration(block.language)).flatMap(({ heading, language, code, line }) => {
    const name = `${file}:${line} (${heading})`
    if (language !== 'js' && language !== 'ts') unknownLanguages.push(name)
    else if (Object.hasOwn(SKIPPED, heading)) skipped.push(heading)
    else return [{ name, file, line, code, prelude }]
    return []
  })
}

function docstringExamples (): Example[] {
  return ['lib', 'types'].flatMap(folder => readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter(file => file.endsWith('.ts') && !file.endsWith('.tst.ts'))
    .flatMap(file => examplesOf(join(folder, file))))
}

function examplesOf (file: string): Example[] {
  const text = read(file)
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.ESNext, true)
  const examples: Example[] = []
  const visit = (node: ts.Node): void => {
    for (const tag of ts.getJSDocTags(node)) {
      // TypeScript also reports the tags of a declaration for the parts of the declaration. Take each tag only once, at the declaration.
      if (tag.tagName.text !== 'example' || tag.parent.parent !== node) continue
      const start = tag.tagName.end
      const code = text.slice(start, tag.end).replace(/^\s*(\* ?)?/, '').replaceAll(/\n\s*\*(?: |\/|$)?/g, '\n').trim()
      const line = lineAt(text, start + text.slice(start).search(/[^\s*]/))
      const isProperty = ts.isPropertySignature(node) && code.startsWith(`${node.name.getText()}:`)
      const prelude = file.startsWith(join('lib', 'browser')) ? BROWSER_PRELUDE : DOCSTRING_PRELUDE
      examples.push({ name: `${file}:${line}`, file, line, code, prelude, ...isProperty && { propertyOf: (node.parent as ts.InterfaceDeclaration).name.text } })
    }
    ts.forEachChild(node, visit)
  }
  visit(source)
  return examples
}

/** The names of the prelude that `code` uses, and does not declare or import at the top level. */
function namesNeeded ({ code, prelude }: Example): string[] {
  const source = ts.createSourceFile('example.ts', code, ts.ScriptTarget.ESNext, true)
  const declared = new Set<string>()
  const used = new Set<string>()
  const add = (name: ts.BindingName): void => {
    if (ts.isIdentifier(name)) declared.add(name.text)
    else for (const element of name.elements) if (ts.isBindingElement(element)) add(element.name)
  }
  for (const statement of source.statements) {
    if (ts.isVariableStatement(statement)) for (const { name } of statement.declarationList.declarations) add(name)
    if (ts.isFunctionDeclaration(statement) && statement.name !== undefined) declared.add(statement.name.text)
    if (ts.isImportDeclaration(statement)) {
      const clause = statement.importClause
      if (clause?.name !== undefined) declared.add(clause.name.text)
      if (clause?.namedBindings !== undefined && ts.isNamedImports(clause.namedBindings)) for (const { name } of clause.namedBindings.elements) declared.add(name.text)
    }
  }
  const visit = (node: ts.Node): void => {
    if (ts.isIdentifier(node)) used.add(node.text)
    ts.forEachChild(node, visit)
  }
  visit(source)
  return Object.keys(prelude).filter(name => used.has(name) && !declared.has(name))
}

/** The example as a file: the prelude in the first line, then the code. */
function fileOf (example: Example): string {
  const prelude = namesNeeded(example).map(name => example.prelude[name])
  if (example.propertyOf === undefined) return `${prelude.join('; ')}\n${example.code}\nexport {}\n`
  return `${[`import type { ${example.propertyOf} } from 'octa-star-streams'`, ...prelude].join('; ')}\n;({${example.code}\n}) satisfies Partial<${example.propertyOf}>\n`
}

/** Compiles all examples in one program against the package's source, and returns the diagnostics of each example. */
function compile (examples: Example[]): Map<Example, string[]> {
  const files = new Map(examples.map((example, i) => [join(root, `example-${i}.ts`), fileOf(example)]))
  files.set(join(root, 'nats-cluster.ts'), NATS_CLUSTER)
  const program = programOf(files)
  return new Map(examples.map((example, i) => [example, diagnosticsOf(program, [...files.keys()][i]!, example.file, example.line - 1)]))
}

function programOf (files: Map<string, string>, more: ts.CompilerOptions = {}): ts.Program {
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), ts.sys.readFile)
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, root)
  // The entries of package.json, with the source instead of the build.
  const entries = Object.entries<string[]>(JSON.parse(read('package.json')).typesVersions['*'])
  const paths = Object.fromEntries(entries.map(([path, [types]]) => [`octa-star-streams/${path}`, [join(root, types!.replace('./dist/', '').replace('.d.ts', '.ts'))]]))
  paths['octa-star-streams'] = [join(root, 'lib/index.ts')]
  const host = ts.createCompilerHost(options)
  const { fileExists, readFile, getSourceFile } = host
  host.fileExists = path => files.has(path) || fileExists(path)
  host.readFile = path => files.get(path) ?? readFile(path)
  // The folders of the guide's programs do not exist. The compiler then looks for each file.
  delete host.directoryExists
  host.getSourceFile = (path, ...rest) => files.has(path) ? ts.createSourceFile(path, files.get(path)!, rest[0], true) : getSourceFile(path, ...rest)
  const program = ts.createProgram({ rootNames: [...files.keys()], options: { ...options, strict: true, noEmit: true, paths, ...more }, host })
  t.strictSame([...program.getOptionsDiagnostics(), ...program.getGlobalDiagnostics()].map(({ messageText }) => messageText), [], 'the compiler takes its options')
  return program
}

function diagnosticsOf (program: ts.Program, path: string, file: string, lineBefore: number): string[] {
  const source = program.getSourceFile(path)!
  return [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)].map(({ start, code, messageText }) => (
    `${file}:${lineBefore + source.getLineAndCharacterOfPosition(start ?? 0).line} TS${code}: ${ts.flattenDiagnosticMessageText(messageText, '\n')}`
  ))
}

const documents = ['README.md', ...['browsers', 'how-it-works', 'migrating', 'recipes', 'redis', 'security'].map(name => `docs/${name}.md`)]
  .flatMap(file => examplesIn(file, DOCUMENTS_PRELUDE))
const reference = ['api', 'options', 'errors'].flatMap(name => examplesIn(`docs/${name}.md`, DOCSTRING_PRELUDE))
const adapters = examplesIn('docs/adapters.md', ADAPTERS_PRELUDE)
const docstrings = docstringExamples()
const faulty: Example = { name: 'an example with a fault', file: 'faulty.ts', line: 1, code: 'await stream.send(\n  42)', prelude: DOCSTRING_PRELUDE }
const compiled = compile([...documents, ...reference, ...adapters, ...docstrings, faulty])

t.test('no example is left out', async t => {
  t.strictSame(unknownLanguages, [], 'each block of the documents is in a known language')
  t.strictSame(skipped.sort(), Object.keys(SKIPPED).sort(), 'each heading of SKIPPED has one block')
  t.ok(documents.length > 0)
  t.ok(reference.length > 0)
  t.ok(adapters.length > 0)
  const written = (file: string) => read(file).match(/@example\b/g)?.length ?? 0
  const files = [...new Set(docstrings.map(({ file }) => file))]
  for (const file of files) t.equal(docstrings.filter(example => example.file === file).length, written(file), `each @example of ${file} is found`)
  const all = ['lib', 'types'].flatMap(folder => readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' }).map(file => join(folder, file))).filter(file => file.endsWith('.ts'))
  // Generated from lib/browser/tab-id.ts, with the docstrings.
  const generated = join('lib', 'browser-module.ts')
  t.strictSame(all.filter(file => file !== generated && written(file) > 0).sort(), files.sort(), 'each file with an @example is found')
})

t.test('each name that is declared for the examples is used by an example', async t => {
  const used = new Map<object, Set<string>>()
  for (const example of [...documents, ...reference, ...adapters, ...docstrings]) {
    const names = used.get(example.prelude) ?? new Set()
    for (const name of namesNeeded(example)) names.add(name)
    used.set(example.prelude, names)
  }
  for (const prelude of [DOCUMENTS_PRELUDE, ADAPTERS_PRELUDE, DOCSTRING_PRELUDE, BROWSER_PRELUDE]) t.strictSame(Object.keys(prelude).filter(name => !used.get(prelude)?.has(name)), [])
})

t.test('a fault in an example is reported with its line', async t => {
  t.match(compiled.get(faulty), [/^faulty\.ts:2 TS2345: /])
})

for (const example of [...documents, ...reference, ...adapters, ...docstrings]) {
  t.test(`${example.name} compiles`, async t => {
    t.strictSame(compiled.get(example), [])
  })
}

// The guide's files are JavaScript, in which a function's parameters have no types.
const guide = guideSteps().flatMap(({ heading, files }, step) => Object.entries(files).map(([file, code]) => ({ heading, file, code, path: join(root, `guide-${step}`, file) })))
const guideProgram = programOf(new Map(guide.map(({ path, code }) => [path, code])), { allowJs: true, checkJs: true, noImplicitAny: false })

for (const { heading, file, path } of guide) {
  t.test(`the guide after '${heading}': ${file} compiles`, async t => {
    t.strictSame(diagnosticsOf(guideProgram, path, file, 1), [])
  })
}
