// Installs the programs that tests drive, where it may: as root on Debian. `--missing` says at the end what was skipped.
// Each is named as its Debian package, and as `package:program` where the two differ.
import { execFileSync, spawnSync } from 'node:child_process'

const [mode, ...packages] = process.argv[2] === '--missing' ? process.argv.slice(2) : ['--install', ...process.argv.slice(2)]
const isMissing = name => spawnSync('which', [name]).status !== 0
const missing = packages.map(name => name.split(':')).filter(([name, program = name]) => isMissing(program)).map(([name]) => name)

if (missing.length > 0) {
  if (mode === '--missing') {
    console.log(`Skipped, because they are not installed here: the tests that need ${missing.join(', ')}`)
  } else if (process.getuid?.() === 0 && !isMissing('apt-get')) {
    console.log(`Installing ${missing.join(', ')}`)
    const apt = args => execFileSync('apt-get', args, { stdio: ['ignore', 'ignore', 'inherit'], env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' } })
    apt(['update', '-q'])
    apt(['install', '-qy', '--no-install-recommends', ...missing])
  }
}
