// The programs that tests drive. `npm run test:all` installs the missing programs from Debian's packages if the user is root, or if `sudo`
// asks for no password.
import { execFileSync, spawnSync } from 'node:child_process'

// By the name of the Debian package. Ubuntu lacks the keys that kit/debian-servers.ts needs to trust Debian's packages.
const PROGRAMS = {
  chromium: 'chromium',
  'debian-archive-keyring': '/usr/share/keyrings/debian-archive-keyring.gpg',
  'firefox-esr': 'firefox-esr',
  iproute2: 'ip',
  nginx: 'nginx',
  openssl: 'openssl',
  'redis-server': 'redis-server',
  'webkit2gtk-driver': 'WebKitWebDriver',
  xvfb: 'Xvfb'
}
// Ubuntu lacks the package firefox-esr. The Firefox of GitHub's machines serves as well.
const ALTERNATIVES = { 'firefox-esr': 'firefox' }

// Debian installs servers outside a user's PATH.
const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` }
const succeeds = (program, ...args) => spawnSync(program, args, { env, stdio: 'ignore' }).status === 0
const isMissing = program => program.startsWith('/') ? !succeeds('test', '-e', program) : !succeeds('which', program)
const missingPackages = () => Object.keys(PROGRAMS).filter(name => isMissing(PROGRAMS[name]) && (ALTERNATIVES[name] === undefined || isMissing(ALTERNATIVES[name])))

/** Installs the programs that are missing, if that is allowed here. */
export function installPrograms () {
  const packages = missingPackages()
  if (packages.length === 0 || isMissing('apt-get')) return
  const isRoot = succeeds('sh', '-c', 'test "$(id -u)" = 0')
  if (!isRoot && !succeeds('sudo', '-n', 'true')) return
  console.log(`Installing ${packages.join(', ')}`)
  const asRoot = (...command) => execFileSync('env', [...isRoot ? [] : ['sudo', '-n'], 'env', 'DEBIAN_FRONTEND=noninteractive', ...command], { stdio: ['pipe', 'ignore', 'inherit'], env })
  withoutServices(asRoot, () => {
    asRoot('apt-get', 'update', '-q')
    asRoot('apt-get', 'install', '-qy', '--no-install-recommends', ...packages)
  })
}

/** The advice for a machine that lacks programs, or `undefined` if no program is missing. */
export function missingPrograms () {
  const packages = missingPackages()
  if (packages.length === 0) return undefined
  return `Skipped: the tests that need ${packages.map(name => PROGRAMS[name]).join(', ')}. To run these tests, install the Debian package${packages.length > 1 ? 's' : ''}: apt-get install ${packages.join(' ')}`
}

// Debian starts a server on installation. The tests start separate servers, so this file forbids the start: invoke-rc.d(8) and
// deb-systemd-invoke(1p) run the file, and 101 means no. Debian's images for containers already have such a file.
function withoutServices (asRoot, install) {
  const policy = '/usr/sbin/policy-rc.d'
  if (succeeds('test', '-e', policy)) return install()
  asRoot('sh', '-c', `printf '#!/bin/sh\\nexit 101\\n' > ${policy} && chmod 755 ${policy}`)
  try {
    install()
  } finally {
    asRoot('rm', policy)
  }
}
