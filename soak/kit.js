// What the tests' kit has already, for plain Node: esbuild takes the types away. Its functions end with what they are given as test.
import { build } from 'esbuild'
import { fileURLToPath } from 'node:url'

// Two directories below the root, as the kit itself is.
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
