// Servers of another Debian release: downloads the packages and unpacks them into a folder of node_modules. Installs nothing, and needs no root.
import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { isQuickRun } from './programs.ts'

export interface DebianServers {
  /** Options for `t.test`: skip if the packages cannot be downloaded, also on CI. The tests with Debian's own redis-server are never skipped there. */
  readonly options: { readonly skip: string | false }
  /** The path of a server, for example of `valkey-server`. */
  path: (server: string) => string
}

const CACHE = fileURLToPath(new URL('../../node_modules/.cache/debian', import.meta.url))
// In Debian and Ubuntu the package debian-archive-keyring.
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'
/** The limits of one command. Three of the commands may take long, so unpacking takes less than ten minutes. */
const SECONDS = 180
const KIBIBYTES = 2_000_000
// Packages that the servers depend on, except packages that only install something. libpam-modules-bin contains a program with
// special permissions.
const NEEDED = /^(lib(?!pam)|lua-|redis-|valkey-|zlib)/

/** The servers in `packages` of the Debian release `suite`. The packages are downloaded once: the next run finds the folder. */
export function debianServers (suite: string, packages: readonly string[]): DebianServers {
  const folder = join(CACHE, suite)
  const path = (server: string) => join(folder, 'bin', server)
  return { options: { skip: isQuickRun ? `npm run test:all runs the tests that need the servers of Debian ${suite}` : unpack(suite, packages, folder) }, path }
}

/** Returns `false`, or the reason why the servers are missing. */
function unpack (suite: string, packages: readonly string[], folder: string): string | false {
  if (packages.every(server => existsSync(join(folder, 'bin', server)))) return false
  mkdirSync(CACHE, { recursive: true })
  // Another test may be unpacking too, so the folder gets its final name when the folder is complete.
  const made = mkdtempSync(`${folder}-`)
  try {
    download(suite, packages, made)
    for (const server of packages) makeProgram(made, server)
    rmSync(join(made, 'apt'), { recursive: true })
    rmSync(folder, { recursive: true, force: true })
    renameSync(made, folder)
    return false
  } catch (error) {
    return `the servers of Debian ${suite} could not be installed: ${(error as Error).message}`
  } finally {
    rmSync(made, { recursive: true, force: true })
  }
}

function download (suite: string, packages: readonly string[], folder: string): void {
  if (!existsSync(KEYRING)) throw new Error(`${KEYRING} is missing`)
  const apt = join(folder, 'apt')
  for (const name of ['state/lists/partial', 'cache/archives/partial']) mkdirSync(join(apt, name), { recursive: true })
  writeFileSync(join(apt, 'status'), '')
  writeFileSync(join(apt, 'sources.list'), `deb [signed-by=${KEYRING}] http://deb.debian.org/debian ${suite} main\n`)
  const options = {
    // A separate state for apt: no locks of the machine's apt are taken, and no package counts as installed.
    'Dir::State': join(apt, 'state'),
    'Dir::State::status': join(apt, 'status'),
    'Dir::Cache': join(apt, 'cache'),
    'Dir::Etc::SourceList': join(apt, 'sources.list'),
    'Dir::Etc::SourceParts': '/dev/null',
    'Dir::Etc::Preferences': '/dev/null',
    'Dir::Etc::PreferencesParts': '/dev/null',
    // Without this option root's apt downloads as a user who may not enter the folder.
    'APT::Sandbox::User': 'root',
    'APT::Update::Error-Mode': 'any',
    'Acquire::Languages': 'none',
    'Acquire::Retries': '1',
    'Acquire::http::Timeout': '10'
  }
  const aptGet = (...args: string[]) => run('apt-get', ...Object.entries(options).flatMap(([name, value]) => ['-o', `${name}=${value}`]), '-qq', ...args)
  aptGet('update')
  aptGet('install', '--no-install-recommends', '--download-only', '-y', ...packages)
  const archives = join(apt, 'cache/archives')
  const files = readdirSync(archives).filter(name => NEEDED.test(name))
  // The file names are harmless: Debian's names of packages and versions.
  run('sh', '-c', `for file in ${files.map(name => join(archives, name)).map(quote).join(' ')}; do dpkg -x "$file" ${quote(join(folder, 'root'))} || exit; done`)
}

/** Makes a program that runs a server with the libraries and the loader of the server's Debian release. See ld.so(8). */
function makeProgram (folder: string, server: string): void {
  const root = join(folder, 'root')
  const libraries = ['lib', 'usr/lib'].filter(parent => existsSync(join(root, parent))).flatMap(parent => readdirSync(join(root, parent)).filter(name => name.includes('-linux-gnu')).map(name => `${parent}/${name}`))
  const loader = libraries.flatMap(library => readdirSync(join(root, library)).filter(name => name.startsWith('ld-linux')).map(name => `${library}/${name}`))[0]
  if (loader === undefined) throw new Error('the loader is missing')
  const program = join(folder, 'bin', server)
  mkdirSync(join(folder, 'bin'), { recursive: true })
  writeFileSync(program, `#!/bin/sh\nroot="\${0%/*}/../root"\nexec "$root/${loader}" --library-path "${libraries.map(library => `$root/${library}`).join(':')}" "$root/usr/bin/${server}" "$@"\n`)
  chmodSync(program, 0o755)
  run(program, '--version')
}

/** Runs `command` with limits of time and memory. Throws apt's first error, or the last line that the command wrote. */
function run (...command: string[]): void {
  const limited = `ulimit -v ${KIBIBYTES}; exec timeout -k 5 ${SECONDS} "$@"`
  const { status, stdout, stderr, error } = spawnSync('sh', ['-c', limited, 'sh', ...command], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
  if (status === 0) return
  const lines = `${stdout ?? ''}\n${stderr ?? ''}`.trim().split('\n')
  const problem = lines.find(line => line.startsWith('E: ')) ?? lines.at(-1)
  throw error ?? new Error(status === 124 ? `${command[0]} took longer than ${SECONDS} s` : problem || `${command[0]} failed`)
}

function quote (text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`
}
