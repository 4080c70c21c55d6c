// Makes package.json and README.md name the repository that publishes the package. The release workflow runs this script before `npm publish`:
//   node scripts/prepare-release.js OWNER/NAME TAG
// Fills in `repository`, `homepage` and `bugs`, and makes the relative links of the README absolute, so that the links resolve at npm.
// A third argument is the folder of the two files, by default this repository.
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const [, , name, tag, folder = root] = process.argv
if (!/^[\w.-]+\/[\w.-]+$/.test(name ?? '') || !tag) throw new Error('usage: node scripts/prepare-release.js OWNER/NAME TAG')
const url = `https://github.com/${name}`

edit('package.json', text => {
  const places = { repository: { type: 'git', url: `git+${url}.git` }, homepage: `${url}#readme`, bugs: { url: `${url}/issues` } }
  return `${JSON.stringify({ ...JSON.parse(text), ...places }, null, 2)}\n`
})

// A link to a part of the README, and a link with a scheme, stay as they are.
edit('README.md', text => text.replace(/(!?)(\[[^\]]*\])\(([^)\s#:]+)(#[^)\s]*)?\)/g, (_link, image, label, path, part = '') => {
  // Throws if there is no such file.
  const kind = statSync(join(root, path)).isDirectory() ? 'tree' : image === '!' ? 'raw' : 'blob'
  return `${image}${label}(${url}/${kind}/${tag}/${path}${part})`
}))

function edit (file, change) {
  const path = join(folder, file)
  writeFileSync(path, change(readFileSync(path, 'utf8')))
}
