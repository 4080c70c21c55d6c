// Says whether this is a quick run, and which tests are skipped because they drive a program other than Node.
import { spawnSync } from 'node:child_process'

/** True in `npm test`, but not in `npm test -- FILE`, where all tests run whose programs are installed. Randomised tests draw fewer cases in a quick run. */
export const isQuickRun = process.env.OCTA_TESTS === 'quick'
// In CI a test fails if the program is missing.
const mayBeSkipped = process.env.CI !== 'true' || process.env.OCTA_TESTS !== 'all'

// Debian installs servers outside a user's PATH.
export const PATH = `${process.env.PATH}:/usr/sbin`

/** A reason to skip the tests that drive `program`, or `false` if they can run. */
export function reasonToSkip (program: string): string | false {
  if (isQuickRun) return `npm run test:all runs the tests that need ${program}`
  // Does not use the option `env`, because tap adds variables to that option.
  const isInstalled = spawnSync('env', [`PATH=${PATH}`, 'which', program], { stdio: 'ignore' }).status === 0
  return !isInstalled && mayBeSkipped && `${program} is not installed`
}
