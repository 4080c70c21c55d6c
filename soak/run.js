// npm run soak [-- minutes]: tabs that do everything a tab can do, on a single process and on three with Redis. Exits with 1 if anything was lost.
import { parseArgs } from 'node:util'
import { redisOptions } from './kit.js'
import { runPhase } from './phase.js'
import { printFirsts, printPhase } from './summary.js'

/** Every planned step, fault or stage of the end takes less time than this, even on a busy machine. */
const HANGS_AFTER = 240_000

const { positionals: [minutes = '10'] } = parseArgs({ allowPositionals: true })
const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 1e9))
if (!(Number(minutes) > 0) || !Number.isSafeInteger(seed)) {
  console.error('usage: [SEED=number] npm run soak -- minutes')
  process.exit(2)
}
// Each piece of planned work that is done starts this timer again, so a slow machine gets the time that the plan takes there.
const watchdog = setTimeout(() => {
  console.error(`The soak hangs: nothing that was planned was done for ${HANGS_AFTER / 1000} s. Repeat: SEED=${seed} npm run soak -- ${minutes}`)
  process.exit(1)
}, HANGS_AFTER)
const onProgress = () => { watchdog.refresh() }

console.log(`Soak for ${minutes} minutes, SEED=${seed}`)
const skip = redisOptions.skip
const phases = [{ phase: 'one', title: 'One process', processes: 1, withRedis: false }]
if (skip === false) phases.push({ phase: 'three', title: 'Three processes and a Redis', processes: 3, withRedis: true })
else console.log(`Skipped: three processes and a Redis, because ${skip}`)

let lost = 0
for (const { title, ...phase } of phases) {
  const result = await runPhase({ ...phase, seed, duration: Number(minutes) * 60_000 / phases.length, onProgress })
  lost += printPhase(title, result)
  printFirsts(result.ledger)
}
clearTimeout(watchdog)
if (lost > 0) console.error(`Lost: ${lost}. Repeat: SEED=${seed} npm run soak -- ${minutes}`)
else console.log('Lost: nothing')
process.exit(lost > 0 ? 1 : 0)
