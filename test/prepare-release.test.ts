// What the release workflow fills in before publishing the package: where the package comes from, and where the README's links lead.
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { root, run, type RunError } from './kit/run.ts'

const folder = mkdtempSync(join(tmpdir(), 'octa-star-release-'))
t.teardown(() => rmSync(folder, { recursive: true, force: true }))
for (const file of ['package.json', 'README.md']) cpSync(join(root, file), join(folder, file))

const prepare = (...args: string[]) => run(process.execPath, ['scripts/prepare-release.js', ...args]).catch((error: RunError) => error)
const read = (file: string, from = folder) => readFileSync(join(from, file), 'utf8')
const linksOf = (text: string) => [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(([, link]) => link!)

t.test('package.json names the repository that publishes the package, and changes nowhere else', async t => {
  t.equal((await prepare('ann/streams', 'v1.2.3', folder)).stderr, '')
  const { repository, homepage, bugs, ...rest } = JSON.parse(read('package.json'))
  t.strictSame({ repository, homepage, bugs }, {
    repository: { type: 'git', url: 'git+https://github.com/ann/streams.git' },
    homepage: 'https://github.com/ann/streams#readme',
    bugs: { url: 'https://github.com/ann/streams/issues' }
  })
  t.strictSame(rest, JSON.parse(read('package.json', root)))
})

t.test('every link of the published README is absolute, or leads to a heading of the README', async t => {
  const before = linksOf(read('README.md', root))
  const after = linksOf(read('README.md'))
  t.equal(after.length, before.length)
  const relative = before.flatMap((link, i) => /^(https?:|#)/.test(link) ? [] : [i])
  t.ok(relative.length > 5)
  for (const i of relative) {
    const path = before[i]!.replace(/#.*/, '')
    t.ok(existsSync(join(root, path)), path)
    t.match(after[i], new RegExp(`^https://github\\.com/ann/streams/(blob|tree|raw)/v1\\.2\\.3/${path}`))
  }
  t.strictSame(after.filter((_link, i) => !relative.includes(i)), before.filter((_link, i) => !relative.includes(i)))
  // GitHub and npm make the name of a heading's anchor in this way.
  const headings = [...read('README.md').matchAll(/^#+ (.+)$/gm)].map(([, title]) => `#${title!.toLowerCase().replace(/[^\w\- ]/g, '').replaceAll(' ', '-')}`)
  t.strictSame(after.filter(link => link.startsWith('#') && !headings.includes(link)), [])
})

t.test('a link to a file that is missing, and a repository without a name, stop the release', async t => {
  writeFileSync(join(folder, 'README.md'), 'See [the guide](docs/missing.md).')
  t.match(await prepare('ann/streams', 'v1.2.3', folder), { code: 1, stderr: /docs\/missing\.md/ })
  t.match(await prepare('', 'v1.2.3', folder), { code: 1, stderr: /usage: / })
  t.match(await prepare('ann/streams', '', folder), { code: 1, stderr: /usage: / })
})

t.test('the release workflow prepares the package before publishing, and package.json names no repository of its own', async t => {
  const workflow = read('.github/workflows/release.yml', root)
  const preparing = workflow.indexOf('node scripts/prepare-release.js "$GITHUB_REPOSITORY" "$GITHUB_REF_NAME"')
  t.ok(preparing > 0 && preparing < workflow.indexOf('npm publish'))
  const { author, ...manifest } = JSON.parse(read('package.json', root))
  t.strictSame(Object.keys(manifest).filter(name => ['repository', 'homepage', 'bugs'].includes(name)), [])
  t.ok(read('LICENSE', root).includes(`Copyright (c) 2026 ${author}\n`), 'the author is the holder of the copyright')
})
