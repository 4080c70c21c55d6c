// npm run soak [-- minutes]: tabs that do all they may, on one process and on three with Redis. Ends with 1 if anything was lost.
import { parseArgs } from 'node:util'
import { redisOptions } from './kit.js'
import { runPhase } from './phase.js'
import { printFirsts, printPhase } from './summary.js'

const { positionals: [minutes = '10'] } = parseArgs({ allowPositionals: true })
const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 1e9))
if (!(Number(minutes) > 0) || !Number.isSafeInteger(seed)) {
  console.error('usage: [SEED=number] npm run soak -- minutes')
  process.exit(2)
}
// A phase that never ends says so, instead of waiting for ever.
const total = Number(minutes) * 60_000
const watchdog = setTimeout(() => {
  console.error(`The soak does not end. Again: SEED=${seed} npm run soak -- ${minutes}`)
  process.exit(1)
}, total + 180_000)

console.log(`Soak for ${minutes} minutes, SEED=${seed}`)
const skip = redisOptions.skip
const phases = [{ phase: 'one', title: 'One process', processes: 1, withRedis: false }]
if (skip === false) phases.push({ phase: 'three', title: 'Three processes and a Redis', processes: 3, withRedis: true })
else console.log(`Skipped: three processes and a Redis, for ${skip}`)

let lost = 0
for (const { title, ...phase } of phases) {
  const result = await runPhase({ ...phase, seed, duration: total / phases.length })
  lost += printPhase(title, result)
  printFirsts(result.ledger)
}
clearTimeout(watchdog)
if (lost > 0) console.error(`Lost: ${lost}. Again: SEED=${seed} npm run soak -- ${minutes}`)
else console.log('Lost: nothing')
process.exit(lost > 0 ? 1 : 0)
