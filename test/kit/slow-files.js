// Preload this module with `--import` to make a program read files as on a slow machine: before a read begins, every interval that the
// program has started fires at least once. So an interval that starts before the program is set up always fails.
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
