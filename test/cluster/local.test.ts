// The rules across processes hold within a process too: requests that reach the same registry compete like requests to different processes.
import { once, EventEmitter } from 'node:events'
import t from 'tap'
import type { CloseReason, Holder } from '../../lib/index.ts'
import { defaults } from '../../lib/options.ts'
import { Registry } from '../../lib/registry/registry.ts'
import { streamKey } from '../../lib/registry/stream-key.ts'
import { memoryLog } from '../kit/memory-log.ts'
import { PlainHolder } from '../kit/plain-holder.ts'

const key = (tab?: string, scope = 'ann', name?: string) => streamKey(scope, tab, name)

/** The same registry for each process that a test asks for. */
function build (processes: number): Registry[] {
  const registry = new Registry({ ...defaults, onLimit: 'replace-oldest' }, memoryLog().log)
  return Array<Registry>(processes).fill(registry)
}

/** A holder that reports when the registry ends the holder. In another process the end may come later. */
class ToldHolder extends PlainHolder {
  readonly #emitter = new EventEmitter()
  readonly told = once(this.#emitter, 'told')
  override close (reason: CloseReason) {
    super.close(reason)
    this.#emitter.emit('told')
  }
}

t.test('a newcomer waits until the holder is gone, whichever process has the holder', async t => {
  const [one, two] = build(2)
  const [first, second] = [new ToldHolder(), new PlainHolder()]
  t.equal(await one!.replaceAndRegister(key('a'), first), true)
  let admitted = false
  const replaced = two!.replaceAndRegister(key('a'), second).then(result => { admitted = true; return result })
  await first.told
  t.strictSame(first.reasons, ['replaced'])
  await settled([one!, two!])
  t.equal(admitted, false)
  first.leave()
  t.equal(await replaced, true)
  t.equal(await one!.count('ann'), 1)
  t.strictSame(second.reasons, [])
})

t.test('of 64 newcomers on one key, spread over all processes, one is left, and two never run at the same time', async t => {
  const registries = build(4)
  let present = 0
  let most = 0
  let live: Holder[] = []
  await Promise.all(Array.from({ length: 64 }, async (_, i) => {
    const holder = new ToldHolder()
    const admitted = registries[i % 4]!.replaceAndRegister(key('a'), holder)
    holder.told.then(async () => {
      // Takes a while to clean up, as a stream does.
      await new Promise(resolve => setTimeout(resolve, i % 3))
      if (live.includes(holder)) present--
      live = live.filter(other => other !== holder)
      holder.leave()
    })
    if (!await admitted) return
    present++
    most = Math.max(most, present)
    live.push(holder)
  }))
  t.equal(live.length, 1)
  t.equal(most, 1)
  t.equal(await registries[1]!.count('ann'), 1)
})

t.test('an eviction reaches every member, and resolves when all evicted holders are gone', async t => {
  const registries = build(3)
  const holders = await Promise.all(['a', 'b', undefined].map(async (tab, i) => {
    const holder = new ToldHolder()
    await registries[i]!.replaceAndRegister(key(tab), holder)
    return holder
  }))
  const bob = new PlainHolder()
  await registries[2]!.replaceAndRegister(key('a', 'bob'), bob)
  t.strictSame(await Promise.all(registries.map(registry => registry.count('ann'))), [3, 3, 3])

  let evicted: number | undefined
  const eviction = registries[0]!.evict('ann').then(count => { evicted = count })
  await Promise.all(holders.map(holder => holder.told))
  t.strictSame(holders.map(holder => holder.reasons), [['evicted'], ['evicted'], ['evicted']])
  holders[0]!.leave()
  holders[2]!.leave()
  await settled(registries)
  t.equal(evicted, undefined)
  holders[1]!.leave()
  await eviction
  t.equal(evicted, 3)
  t.strictSame(bob.reasons, [], 'a holder of another scope goes on')
})

t.test('an eviction of a tab ends the tab\'s streams under every name, and no stream of another tab', async t => {
  const registries = build(3)
  const keys = [key('a'), key('a', 'ann', 'chat'), key('b'), key(undefined)]
  const holders = await Promise.all(keys.map(async (key, i) => {
    const holder = new ToldHolder()
    await registries[i % 3]!.replaceAndRegister(key, holder)
    holder.told.then(() => holder.leave())
    return holder
  }))
  t.equal(await registries[2]!.evict('ann', 'a'), 2)
  t.strictSame(holders.map(holder => holder.reasons), [['evicted'], ['evicted'], [], []])
})

t.test('a claim that is released late never removes its successor', async t => {
  const [one, two, three] = build(3)
  const holders = [new PlainHolder(), new PlainHolder(), new ToldHolder()] as const
  await one!.replaceAndRegister(key('a'), holders[0])
  holders[0].leave()
  await two!.replaceAndRegister(key('a'), holders[1])
  const third = three!.replaceAndRegister(key('a'), holders[2])
  holders[1].leave()
  t.equal(await third, true)
  const fourth = one!.replaceAndRegister(key('a'), new PlainHolder())
  await holders[2].told
  holders[2].leave()
  t.equal(await fourth, true, 'the successor was found, and awaited')
})

t.test('keys that look alike do not meet', async t => {
  const registries = build(3)
  const keys = [key('a:b'), key('a', 'ann', 'b'), key('a'), key('', 'ann:a'), key('a', '{ann}'), key('a', '*'), key('*'), key('a b'), key('-'), key('x'.repeat(128)), key('a\n')]
  const holders = await Promise.all(keys.map(async (key, i) => {
    const holder = new PlainHolder()
    t.equal(await registries[i % 3]!.replaceAndRegister(key, holder), true)
    return holder
  }))
  t.strictSame(holders.flatMap(holder => holder.reasons), [])
  for (const [i, key] of keys.entries()) {
    const newcomer = registries[(i + 1) % 3]!.replaceAndRegister(key, new PlainHolder())
    holders[i]!.leave()
    await newcomer
  }
})

/** Resolves after a complete replacement in another scope. That replacement uses the same connections, so every earlier message has arrived by then. */
async function settled (registries: Registry[]): Promise<void> {
  for (const [i, from] of registries.entries()) {
    const holder = new ToldHolder()
    const key = streamKey('somebody else', String(i))
    await from.replaceAndRegister(key, holder)
    holder.told.then(() => holder.leave())
    await registries[(i + 1) % registries.length]!.replaceAndRegister(key, new PlainHolder())
  }
}
