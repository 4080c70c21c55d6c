// Rule 4 over time: 200,000 streams, opened and closed in turn with each option on, leave nothing on the heap.
import { setImmediate as turn } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import type { FastifyBaseLogger } from 'fastify'
import t from 'tap'
import { defaults } from '../lib/options.ts'
import { Registry } from '../lib/registry/registry.ts'
import { streamKey } from '../lib/registry/stream-key.ts'
import { pendingStream, startOn, type PendingOptions } from './kit/fake-stream.ts'

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as () => void

const OPENS = 200_000
const log = { debug () {}, info () {}, warn () {}, error () {} } as unknown as FastifyBaseLogger

const variants: Record<string, PendingOptions & { maxStreamsPerScope?: number }> = {
  maxAge: { maxAge: 3_600_000 },
  stallTimeout: { stallTimeout: 60_000 },
  maxStreamsPerScope: { maxStreamsPerScope: 50 },
  deadPeerProbe: { deadPeerProbe: 60_000 },
  maxBufferedBytes: { maxBufferedBytes: 1_024 }
}

async function heap (): Promise<number> {
  for (let i = 0; i < 4; i++) {
    await turn()
    gc()
  }
  return process.memoryUsage().heapUsed
}

for (const [name, { maxStreamsPerScope = Infinity, ...options }] of Object.entries(variants)) {
  t.test(`with ${name}, a stream that is gone leaves less than 10 bytes`, async t => {
    const registry = new Registry({ ...defaults, onLimit: 'replace-oldest', maxStreamsPerScope }, log)
    let opened = 0
    async function open (count: number): Promise<void> {
      for (let i = 0; i < count; i++) {
        const key = streamKey(`user ${opened++}`, 'a')
        const pending = pendingStream({ key, log, ...options })
        await startOn(registry, pending, key)
        pending.stream.onClose(() => {})
        await pending.stream.send('hello')
        pending.stream.handlerReturned()
        await pending.stream.gone
        if (i % 100 === 0) await turn()
      }
    }
    await open(20_000)
    const before = await heap()
    await open(OPENS)
    const bytes = (await heap() - before) / OPENS
    t.ok(bytes < 10, `${bytes.toFixed(1)} bytes an open`)
    t.equal(registry.size, 0)
  })
}
