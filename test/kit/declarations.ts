// What the types declare, and what a document shows of the types, in one canonical form without comments.
import { join, dirname, normalize } from 'node:path'
import ts from 'typescript'
import { read } from './document.ts'

export interface Member {
  /** As a reader needs the member: without `readonly`, type parameters, and the `undefined` that `?` says already. */
  readonly signature: string
  readonly parameters: string[]
  readonly isOptional: boolean
  /** The error codes that the comment names. */
  readonly codes: string[]
}

export interface Declaration {
  readonly name: string
  readonly comment: string
  readonly signature: string
  /** The members of an interface. */
  readonly members: Map<string, Member>
}

const printer = ts.createPrinter({ removeComments: true })

function signatureOf (node: ts.Node, source: ts.SourceFile): string {
  return printer.printNode(ts.EmitHint.Unspecified, node, source)
    .replaceAll(/\b(export|readonly|declare|function|extends Holder)\s/g, '')
    .replaceAll(/\?: (.+?) \| undefined(?=[;,)\n]|$)/g, '?: $1')
    .replaceAll(/\?: \((\(.*\) => \w+)\);/g, '?: $1;')
    .replaceAll(/ScopeKeyLike<T>/g, 'ScopeKey')
    .replaceAll(/^(\s*\w+)<T>\(/gm, '$1(')
    // A parameter with a default value is internal.
    .replaceAll(/, \w+ = '\w+'\)/g, ')')
    .replace(/;$/, '')
}

function isExported (node: ts.Node): boolean {
  return ts.canHaveModifiers(node) && ts.getModifiers(node)?.some(({ kind }) => kind === ts.SyntaxKind.ExportKeyword) === true
}

function parse (name: string, text: string): ts.SourceFile {
  return ts.createSourceFile(name, text, ts.ScriptTarget.ESNext, true)
}

/** The interfaces, types and functions that `files` export, and the interfaces in a `declare module`. */
export function declarationsIn (...files: string[]): Map<string, Declaration> {
  const found = new Map<string, Declaration>()
  for (const file of files) {
    const text = read(file)
    const source = parse(file, text)
    const commentOf = (node: ts.Node) => text.slice(node.getFullStart(), node.getStart())
    const visit = (node: ts.Node): void => {
      if (ts.isModuleDeclaration(node) && node.body !== undefined) return ts.forEachChild(node.body, visit)
      if (!ts.isInterfaceDeclaration(node) && !ts.isTypeAliasDeclaration(node) && !ts.isFunctionDeclaration(node)) return
      if (node.parent === source && !isExported(node)) return
      const members = new Map<string, Member>()
      for (const member of ts.isInterfaceDeclaration(node) ? node.members : []) {
        members.set(member.name!.getText(), {
          signature: signatureOf(member, source),
          parameters: ts.isMethodSignature(member) ? member.parameters.map(({ name }) => name.getText()) : [],
          isOptional: member.questionToken !== undefined,
          codes: commentOf(member).match(/FST_ERR_[A-Z_]+/g) ?? []
        })
      }
      const declaration = ts.isFunctionDeclaration(node) ? ts.factory.updateFunctionDeclaration(node, node.modifiers, undefined, node.name, node.typeParameters, node.parameters, node.type, undefined) : node
      found.set(node.name!.text, { name: node.name!.text, comment: commentOf(node), signature: signatureOf(declaration, source), members })
    }
    ts.forEachChild(source, visit)
  }
  return found
}

/** The first line of the `ts` block in `text` if that line is a member or a function, and the declarations in the block, each in the form of {@link Declaration}. */
export function signatures (text: string): { member: string | undefined, declarations: Map<string, string> } {
  const declarations = new Map<string, string>()
  const [, code] = /^```ts\n(.*?)^```$/ms.exec(text) ?? []
  if (code === undefined) return { member: undefined, declarations }
  const hasMember = !/^(interface|type) /.test(code)
  const firstLine = hasMember ? code.slice(0, code.indexOf('\n')) : ''
  const source = parse('shown.ts', code.slice(firstLine.length))
  for (const statement of source.statements) {
    if (!ts.isInterfaceDeclaration(statement) && !ts.isTypeAliasDeclaration(statement)) throw new Error(`neither a member nor a declaration: ${statement.getText()}`)
    declarations.set(statement.name.text, signatureOf(statement, source))
  }
  if (!hasMember) return { member: undefined, declarations }
  const wrapped = parse('shown.ts', `interface Shown {\n${firstLine}\n}`)
  const [member] = (wrapped.statements[0] as ts.InterfaceDeclaration).members
  return { member: signatureOf(member!, wrapped), declarations }
}

const { exports: packageExports, typesVersions } = JSON.parse(read('package.json'))

/** The names by which an application imports the package. */
export const entryPoints = Object.keys(packageExports).filter(path => path !== './package.json').map(path => path.replace('.', 'octa-star-streams'))

/** What an entry point exports, types included. */
export function exportsOf (entry: string): string[] {
  const [, path] = entry.split('/')
  return exportsIn(path === undefined ? 'lib/index.ts' : typesVersions['*'][path][0].replace('./dist/', '').replace('.d.ts', '.ts'))
}

function exportsIn (file: string): string[] {
  const source = parse(file, read(file))
  const names = source.statements.flatMap((statement): string[] => {
    if (ts.isExportDeclaration(statement)) {
      if (statement.exportClause !== undefined) return (statement.exportClause as ts.NamedExports).elements.map(({ name }) => name.text)
      return exportsIn(normalize(join(dirname(file), (statement.moduleSpecifier as ts.StringLiteral).text)))
    }
    if (!isExported(statement)) return []
    if (ts.isVariableStatement(statement)) return statement.declarationList.declarations.map(({ name }) => name.getText())
    return [(statement as unknown as { name: ts.Identifier }).name.text]
  })
  return [...new Set(names)]
}
