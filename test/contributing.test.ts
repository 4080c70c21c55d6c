// What CONTRIBUTING.md, RELEASING.md, the examples and the forms of the repository say to contributors, compared with the repository.
import { existsSync, readdirSync } from 'node:fs'
import t from 'tap'
import { parse } from 'yaml'
import { blocksOf, read } from './kit/document.ts'

const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> }
const exists = (path: string) => existsSync(new URL(`../${path}`, import.meta.url))

t.test('the commands for contributors exist, and CI runs the last of them', async t => {
  const { code } = blocksOf('CONTRIBUTING.md').find(({ heading, language }) => heading === 'The test loop' && language === 'sh')!
  const commands = code.trim().split('\n').map(line => line.split(/ +#/)[0]!)
  t.equal(commands.shift(), 'npm ci')
  for (const command of commands) {
    const [, script, file] = /^npm (?:run )?([\w:]+)(?: -- (\S+))?$/.exec(command)!
    t.ok(scripts[script!] !== undefined, command)
    if (file !== undefined) t.ok(exists(file), command)
  }
  t.strictSame(read('.ci/run').split('\n').filter(line => line.startsWith('npm ')), ['npm ci', commands.at(-1)])
})

t.test('every npm script that a page for contributors names exists', async t => {
  const pages = ['CONTRIBUTING.md', 'RELEASING.md', '.github/pull_request_template.md', 'bench/README.md', 'soak/README.md', 'examples/README.md', ...readdirSync(new URL('../examples', import.meta.url), { withFileTypes: true }).filter(entry => entry.isDirectory()).map(({ name }) => `examples/${name}/README.md`)]
  for (const page of pages) {
    for (const [, script] of read(page).matchAll(/npm run (?:--silent )?([\w:]+)/g)) t.ok(scripts[script!] !== undefined, `${page}: npm run ${script}`)
  }
})

t.test('the table of the examples names every example and the command that starts the example, and so does the example\'s README', async t => {
  const rows = [...read('examples/README.md').matchAll(/^\| \[\w+\]\((\w+)\) \| `(npm run [\w:]+)`/gm)].map(([, folder, command]) => [folder!, command!] as const)
  t.strictSame(rows.map(([folder]) => folder).sort(), readdirSync(new URL('../examples', import.meta.url), { withFileTypes: true }).filter(entry => entry.isDirectory()).map(({ name }) => name).sort())
  for (const [folder, command] of rows) {
    t.match(scripts[command.slice('npm run '.length)], `examples/${folder}/`, command)
    t.match(read(`examples/${folder}/README.md`), `npm ci && ${command}\n`)
  }
})

t.test('the changelog begins with the version of package.json, below what is not released yet', async t => {
  const { version } = JSON.parse(read('package.json'))
  const [latest] = [...read('CHANGELOG.md').matchAll(/^## (.*)$/gm)].map(([, heading]) => heading!).filter(heading => heading !== 'Unreleased')
  t.match(latest, /^\S+ \(\d{4}-\d\d-\d\d\)$/)
  t.equal(latest!.split(' ')[0], version)
  const { version: locked, packages } = JSON.parse(read('package-lock.json'))
  t.strictSame([locked, packages[''].version], [version, version])
})

// https://docs.github.com/communities/using-templates-to-encourage-useful-issues-and-pull-requests/syntax-for-githubs-form-schema
t.test('the forms for issues have what GitHub requires of a form', async t => {
  for (const file of ['bug.yml', 'question.yml']) {
    const form = parse(read(`.github/ISSUE_TEMPLATE/${file}`))
    for (const key of ['name', 'description']) t.type(form[key], 'string', `${file}: ${key}`)
    const fields = form.body.filter(({ type }: { type: string }) => type !== 'markdown')
    t.ok(fields.length > 0)
    t.equal(new Set(fields.map(({ id }: { id: string }) => id)).size, fields.length, `${file}: each field has an id of its own`)
    for (const { type, attributes } of form.body) {
      t.ok(['markdown', 'textarea', 'input', 'dropdown', 'checkboxes'].includes(type), `${file}: ${type}`)
      t.type(type === 'markdown' ? attributes.value : attributes.label, 'string')
    }
  }
})
