// Makes the build in `dist` again if a source is newer. Tests whose child processes run on the build import this file.
import { spawnSync } from 'node:child_process'
import { readdirSync, statSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))
const modified = path => statSync(`${root}/${path}`, { throwIfNoEntry: false })?.mtimeMs ?? 0
// A folder's own time tells that a file was removed.
const tree = path => [path, ...readdirSync(`${root}/${path}`, { recursive: true }).map(name => `${path}/${name}`)]
const sources = ['tsconfig.json', 'tsconfig.build.json', 'tsconfig.browser.json', 'scripts/browser-module.js', ...tree('lib'), ...tree('types')]
// The last file that the build writes.
const built = modified('dist/lib/browser/tab-id.js')

if (sources.some(path => modified(path) >= built)) {
  // `env -u`, and not the option `env`, because tap adds its loaders to the option, and TypeScript 7 does not run under the loaders.
  // The build prints to standard error, because standard output belongs to the test.
  const { status } = spawnSync('env', ['-u', 'NODE_OPTIONS', 'npm', 'run', 'build', '--silent'], { cwd: root, stdio: ['ignore', 2, 2] })
  if (status !== 0) throw new Error('npm run build failed')
}
