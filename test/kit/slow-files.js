// Preloaded with `--import`, makes a program read files as on a slow machine: a read finishes only after every interval that was started
// before the read has fired. So an interval that uses something before the program has set it up always fails.
import fs from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'

const { setInterval } = globalThis
const { readFile } = fs
const fired = []

globalThis.setInterval = (callback, ...args) => {
  let hasFired = () => {}
  fired.push(new Promise(resolve => { hasFired = resolve }))
  return setInterval((...values) => {
    callback(...values)
    hasFired()
  }, ...args)
}

fs.readFile = async (...args) => {
  await Promise.all(fired)
  return await readFile(...args)
}
syncBuiltinESMExports()
