// Installs the programs that tests drive, where it may: as root on Debian. `--missing` says at the end what was skipped.
// Each is named as its Debian package, and as `package:program` where the two differ.
import { execFileSync, spawnSync } from 'node:child_process'
import { rmSync, writeFileSync } from 'node:fs'

const [mode, ...packages] = process.argv[2] === '--missing' ? process.argv.slice(2) : ['--install', ...process.argv.slice(2)]
// Servers are where a user's PATH does not lead.
const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` }
const isMissing = name => spawnSync('which', [name], { env }).status !== 0
const missing = packages.map(name => name.split(':')).filter(([name, program = name]) => isMissing(program)).map(([name]) => name)

if (missing.length > 0) {
  if (mode === '--missing') {
    console.log(`Skipped, because they are not installed here: the tests that need ${missing.join(', ')}`)
  } else if (process.getuid?.() === 0 && !isMissing('apt-get')) {
    console.log(`Installing ${missing.join(', ')}`)
    withoutServices(() => {
      const apt = args => execFileSync('apt-get', args, { stdio: ['ignore', 'ignore', 'inherit'], env: { ...env, DEBIAN_FRONTEND: 'noninteractive' } })
      apt(['update', '-q'])
      apt(['install', '-qy', '--no-install-recommends', ...missing])
    })
  }
}

// Debian starts a server that it installs. The tests start their own, and this machine has no use for another:
// invoke-rc.d(8) and deb-systemd-invoke(1p) ask this file, and 101 forbids. Debian's images for containers have it.
function withoutServices (install) {
  const policy = '/usr/sbin/policy-rc.d'
  try {
    writeFileSync(policy, '#!/bin/sh\nexit 101\n', { mode: 0o755, flag: 'wx' })
  } catch (error) {
    if (error.code === 'EEXIST') return install()
    throw error
  }
  try {
    install()
  } finally {
    rmSync(policy)
  }
}
