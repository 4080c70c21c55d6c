// How `npm run test:all` installs the programs that tests drive. The test replaces the programs of a machine with scripts that log their calls.
import { spawnSync } from 'node:child_process'
import { chmod, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'

const debian = new URL('kit/debian.js', import.meta.url).href
const locate = (program: string) => spawnSync('which', [program], { encoding: 'utf8' }).stdout.trim()

interface Machine { uid: number, sudo: 'asks for a password' | 'asks for nothing', apt?: boolean }

/** The advice that a machine without Chromium and Redis prints, and the commands that run there as root. */
async function tryOn (t: Test, { uid, sudo, apt = true }: Machine): Promise<{ said: string, ran: string[] }> {
  const directory = await mkdtemp(join(tmpdir(), 'octa-star-programs-'))
  t.teardown(() => rm(directory, { recursive: true }))
  const program = async (name: string, script: string) => {
    await writeFile(join(directory, name), `#!/bin/sh\n${script}\n`)
    await chmod(join(directory, name), 0o755)
  }
  for (const name of ['env', 'sh', 'true']) await symlink(locate(name), join(directory, name))
  for (const name of ['firefox', 'ip', 'nginx', 'openssl', 'WebKitWebDriver', 'Xvfb']) await program(name, '')
  await program('which', `[ -x ${directory}/$1 ]`)
  // Finds Debian's file that forbids to start servers, so that none is written.
  await program('test', '[ "$1" = -e ] || [ "$@" ]')
  await program('id', `echo ${uid}`)
  await program('sudo', sudo === 'asks for nothing' ? 'shift; SUDO=1 exec "$@"' : 'exit 1')
  if (apt) await program('apt-get', `echo "\${SUDO:+sudo }apt-get $*" >> ${directory}/ran`)
  const code = `import { installPrograms, missingPrograms } from '${debian}'; installPrograms(); console.log(missingPrograms())`
  // Does not use the option `env`, because tap adds variables to that option.
  const { stdout, stderr } = spawnSync('env', ['-i', `PATH=${directory}`, process.execPath, '--input-type=module', '-e', code], { encoding: 'utf8' })
  t.equal(stderr, '')
  return { said: stdout, ran: (await readFile(join(directory, 'ran'), 'utf8').catch(() => '')).split('\n').filter(Boolean) }
}

const install = 'apt-get install -qy --no-install-recommends chromium redis-server'

t.test('root installs the missing programs', async t => {
  t.strictSame((await tryOn(t, { uid: 0, sudo: 'asks for a password' })).ran, ['apt-get update -q', install])
})

t.test('another user installs with a sudo that asks for no password', async t => {
  t.strictSame((await tryOn(t, { uid: 1000, sudo: 'asks for nothing' })).ran, ['sudo apt-get update -q', `sudo ${install}`])
})

for (const machine of [{ uid: 1000, sudo: 'asks for a password' }, { uid: 0, sudo: 'asks for nothing', apt: false }] satisfies Machine[]) {
  t.test(`${machine.uid === 0 ? 'without apt-get' : 'where sudo asks for a password'} nothing is run, and the user is told which packages to install`, async t => {
    const { said, ran } = await tryOn(t, machine)
    t.strictSame(ran, [])
    t.match(said, /need chromium, redis-server\..*apt-get install chromium redis-server\n$/)
  })
}
