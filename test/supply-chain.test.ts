// What comes with the package: few packages, no script that runs when they are installed, no known vulnerability, a signed origin.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import t from 'tap'

interface Package {
  dev?: boolean
  devOptional?: boolean
  optional?: boolean
  hasInstallScript?: boolean
  resolved?: string
  dependencies?: Record<string, string>
}

const root = new URL('../', import.meta.url)
const read = async (path: string) => await readFile(new URL(path, root), 'utf8')
const { packages } = JSON.parse(await read('package-lock.json')) as { packages: Record<string, Package> }
const production = Object.entries(packages).filter(([path, { dev, devOptional, optional }]) => path !== '' && !dev && !devOptional && !optional)

/** The names of all that is installed for `dependencies`, and for those of theirs. */
function tree (dependencies: Record<string, string> = {}, from = '', names = new Set<string>()): Set<string> {
  for (const name of Object.keys(dependencies)) {
    // As Node looks it up: beside its dependent, or further up.
    const nested = `${from}/node_modules/${name}`.replace(/^\//, '')
    const path = nested in packages ? nested : `node_modules/${name}`
    if (names.has(name)) continue
    names.add(name)
    tree(packages[path]!.dependencies, path, names)
  }
  return names
}

t.test('no package of the production tree has an install script, and the lockfile has no download address', async t => {
  t.ok(production.length > 10)
  t.strictSame(production.filter(([, { hasInstallScript }]) => hasInstallScript === true).map(([path]) => path), [])
  t.strictSame(Object.entries(packages).filter(([, { resolved }]) => resolved !== undefined).map(([path]) => path), [])
})

t.test('beyond what Fastify installs, the package brings what the README names', async t => {
  const fastify = tree({ fastify: '' })
  const ours = tree(packages['']!.dependencies)
  const beyond = [...ours].filter(name => !fastify.has(name)).sort()
  t.strictSame(beyond, ['@fastify/sse', 'fastify-plugin'])
  const security = (await read('README.md')).split('\n## Security\n')[1]!.split('\n## ')[0]!.replaceAll('\n', ' ')
  t.ok(security.includes(`brings two, ${beyond.map(name => `\`${name}\``).join(' and ')};`))
  // What the lockfile marks as production is these two trees, and nothing else.
  t.strictSame([...new Set(production.map(([path]) => path.split('node_modules/').at(-1)!))].sort(), [...new Set([...fastify, ...ours, 'fastify'])].sort())
})

t.test('npm audit knows of no vulnerability in the production tree', { timeout: 120_000 }, async t => {
  const child = spawn('npm', ['audit', '--omit=dev', '--json'], { cwd: fileURLToPath(root) })
  let said = ''
  child.stdout.on('data', text => { said += text })
  child.stderr.resume()
  const [code] = await once(child, 'close')
  const report = JSON.parse(said)
  if (report.auditReportVersion === undefined) return t.pass('the audit', { skip: `the registry does not answer: ${report.message ?? report.error?.summary}` })
  t.equal(code, 0, JSON.stringify(report.vulnerabilities))
})

t.test('a release is tested, audited, and published by the workflow itself, with its provenance', async t => {
  const release = await read('.github/workflows/release.yml')
  const steps = [...release.matchAll(/- run: (.+)/g)].map(([, command]) => command)
  t.strictSame(steps, ['npm ci', 'npm audit --omit=dev', 'npm test', 'npm pkg set repository.url=git+https://github.com/$GITHUB_REPOSITORY.git', 'npm publish --provenance --access public'])
  t.match(release, /on:\n {2}release:\n {4}types: \[published\]\n/)
  t.match(release, /^ +id-token: write$/m)
  t.ok(JSON.parse(await read('package.json')).private !== true)
})
