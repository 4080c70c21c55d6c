// The supply chain of the package: few packages, no install scripts, no known vulnerability, and a signed origin.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile, readdir } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { parse } from 'yaml'
import { isQuickRun } from './kit/programs.ts'

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

/** The names of all packages that are installed for `dependencies`, directly or indirectly. */
function tree (dependencies: Record<string, string> = {}, from = '', names = new Set<string>()): Set<string> {
  for (const name of Object.keys(dependencies)) {
    // Looks a package up as Node does: beside the dependent package, or further up.
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

t.test('apart from the packages of Fastify, the package installs only the packages that docs/security.md names', async t => {
  const fastify = tree({ fastify: '' })
  const ours = tree(packages['']!.dependencies)
  const beyond = [...ours].filter(name => !fastify.has(name)).sort()
  t.strictSame(beyond, ['@fastify/sse', 'fastify-plugin'])
  const security = (await read('docs/security.md')).replaceAll('\n', ' ')
  t.ok(security.includes(`brings two dependencies, ${beyond.map(name => `\`${name}\``).join(' and ')}.`))
  // The lockfile marks exactly these two trees as production.
  t.strictSame([...new Set(production.map(([path]) => path.split('node_modules/').at(-1)!))].sort(), [...new Set([...fastify, ...ours, 'fastify'])].sort())
})

t.test('npm audit knows of no vulnerability in the production tree', { timeout: 120_000, skip: isQuickRun && 'npm run test:all asks the registry' }, async t => {
  const child = spawn('npm', ['audit', '--omit=dev', '--json'], { cwd: fileURLToPath(root) })
  let said = ''
  child.stdout.on('data', text => { said += text })
  child.stderr.resume()
  const [code] = await once(child, 'close')
  const report = JSON.parse(said)
  if (report.auditReportVersion === undefined) return t.pass('the audit', { skip: `the registry does not answer: ${report.message ?? report.error?.summary}` })
  t.equal(code, 0, JSON.stringify(report.vulnerabilities))
})

interface Step { uses?: string, run?: string, with?: Record<string, unknown>, env?: Record<string, string> }

interface Job {
  needs?: string | string[]
  if?: string
  'runs-on': string
  permissions?: Record<string, string>
  strategy?: { matrix: Record<string, unknown[]> }
  steps: Step[]
}

interface Workflow {
  on: Record<string, unknown>
  permissions: Record<string, string>
  concurrency?: { group: string, 'cancel-in-progress': boolean }
  jobs: Record<string, Job>
}

async function workflows (): Promise<Record<string, Workflow>> {
  const names = await readdir(new URL('.github/workflows/', root))
  return Object.fromEntries(await Promise.all(names.map(async name => [name, parse(await read(`.github/workflows/${name}`))])))
}

const stepsOf = (workflow: Workflow) => Object.values(workflow.jobs).flatMap(({ steps }) => steps)
const commands = ({ steps }: Job) => steps.flatMap(({ run }) => run?.split('\n') ?? [])

t.test('no workflow uses a secret, may write to the repository, or runs an action that could change under its name', async t => {
  const all = await workflows()
  t.ok(Object.keys(all).length >= 2)
  for (const [name, workflow] of Object.entries(all)) {
    t.notMatch(JSON.stringify(workflow), /secrets\.|NODE_AUTH_TOKEN|NPM_TOKEN|_authToken|registry-url/, name)
    t.strictSame(workflow.permissions, { contents: 'read' }, name)
    for (const { permissions = {} } of Object.values(workflow.jobs)) t.strictSame(Object.keys(permissions).filter(scope => scope !== 'id-token' && permissions[scope] !== 'read'), [], name)
    const actions = stepsOf(workflow).flatMap(({ uses }) => uses ?? [])
    t.ok(actions.length > 0)
    for (const action of actions) t.match(action, /^[\w-]+\/[\w/-]+@[0-9a-f]{40}$/, `${name}: ${action}`)
  }
})

t.test('the workflow itself publishes a release, with its provenance, after the tests and the audit have passed', async t => {
  const { 'release.yml': release } = await workflows()
  t.strictSame(release!.on, { release: { types: ['published'] } })
  const publishers = Object.entries(release!.jobs).filter(([, job]) => job.permissions?.['id-token'] === 'write')
  t.equal(publishers.length, 1)
  const [name, job] = publishers[0]!
  const before = [job.needs ?? []].flat()
  // The default of GitHub: a job without a condition does not start if a needed job has failed.
  t.equal(job.if, undefined)
  const checked = before.flatMap(name => release!.jobs[name]!.steps)
  t.strictSame(checked.filter(step => 'continue-on-error' in step || 'if' in step), [])
  const checks = before.flatMap(name => commands(release!.jobs[name]!))
  t.ok(checks.includes('npm run test:all'))
  t.ok(checks.includes('npm audit --omit=dev'))
  t.ok(checks.some(command => command.includes('"$TAG" = "v$(node -p')), 'the tag is compared with the version')

  const publishing = commands(job).filter(command => command.startsWith('npm publish'))
  t.equal(publishing.length, 1)
  t.match(publishing[0], /--provenance\b/)
  // Trusted publishing needs npm 11.5.1 or later, which Node includes since 24.5.
  const node = job.steps.find(({ uses }) => uses?.startsWith('actions/setup-node@'))
  t.ok(Number(node?.with?.['node-version']) >= 24)
  const everywhere = Object.entries(release!.jobs).filter(([other]) => other !== name).flatMap(([, job]) => commands(job))
  t.strictSame(everywhere.filter(command => command.includes('npm publish')), [])
  t.ok(JSON.parse(await read('package.json')).private !== true)
})

t.test('CI runs everything on each supported Node, the quick tests on macOS, and only the newest push', async t => {
  const { 'ci.yml': ci } = await workflows()
  t.ok('push' in ci!.on && 'pull_request' in ci!.on && 'schedule' in ci!.on)
  t.equal(ci!.concurrency?.['cancel-in-progress'], true)
  t.match(ci!.concurrency?.group, /github\.ref\b/)
  const jobs = Object.values(ci!.jobs)
  const everything = jobs.filter(job => commands(job).includes('bash .ci/run'))
  t.strictSame(everything.flatMap(job => job.strategy?.matrix.node), [20, 22, 24, 26])
  t.ok(everything.every(job => job.if === undefined))
  const macos = jobs.filter(job => job['runs-on'].startsWith('macos'))
  t.equal(macos.length, 1)
  t.ok(commands(macos[0]!).includes('npm test'))
  // Random tests draw new values at night, and the same values in every other run.
  const seeds = stepsOf(ci!).flatMap(({ env }) => env?.OCTA_SEED ?? [])
  t.equal(seeds.length, everything.length)
  for (const seed of seeds) t.match(seed, /github\.event_name == 'schedule' && 'random' \|\| ''/)
})
