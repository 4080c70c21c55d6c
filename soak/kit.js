// Makes the kit of the tests usable in plain Node: esbuild removes the types. The functions expect a test, and `end` below stands for the test.
import { build } from 'esbuild'
import { fileURLToPath } from 'node:url'

// The bundle must lie two directories below the root, like the kit.
const outfile = fileURLToPath(new URL('.kit/kit.js', import.meta.url))
await build({
  stdin: {
    contents: "export * from './child.ts'\nexport * from './cable-proxy.ts'\nexport * from './redis.ts'\nexport * from './redis-proxy.ts'",
    resolveDir: fileURLToPath(new URL('../test/kit', import.meta.url))
  },
  outfile,
  bundle: true,
  format: 'esm',
  platform: 'node',
  packages: 'external'
})

export const { startChild, cableProxy, redisServer, redisOptions, redisProxy } = await import(outfile)

/** Stands for a test: `end` runs the teardowns, the last first. */
export function session () {
  const teardowns = []
  return {
    teardown: callback => { teardowns.push(callback) },
    async end () {
      while (teardowns.length > 0) await teardowns.pop()()
    }
  }
}
