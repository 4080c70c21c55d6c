// A claim: when `released` resolves, and what stays referenced after the release.
import t from 'tap'
import { DelayQueue } from '../lib/delay-queue.ts'
import { Claim, type Deadline } from '../lib/registry/claim.ts'
import { streamKey } from '../lib/registry/stream-key.ts'
import { memoryLog } from './kit/memory-log.ts'
import { PlainHolder } from './kit/plain-holder.ts'

const deadlines = new DelayQueue<Deadline>(50, () => {})
const owner = { log: memoryLog().log, deadlines, claimEnding () {}, holderGone () {}, giveUp () {} }
const claimOf = (holder: PlainHolder) => new Claim(streamKey('ann', 'a'), holder, 1, owner)

// An adapter reports the release to the cluster. A rejection would have been unhandled, and the report never sent.
t.test('`released` resolves whether it is read before or after the release, also if the holder rejects', async t => {
  const holder = new PlainHolder()
  const claim = claimOf(holder)
  const early = claim.released
  holder.gone.catch(() => {})
  holder.leave(new Error('a broken socket'))
  claim.release()
  t.equal(await early, undefined)
  t.equal(await claim.released, undefined)
})

// Everybody who evicts a scope waits for each of its claims.
t.test('any number of callbacks runs at the release, each once and in order', async t => {
  const claim = claimOf(new PlainHolder())
  const called: number[] = []
  const numbers = Array.from({ length: 50_000 }, (_, i) => i)
  for (const number of numbers) claim.whenReleased(() => called.push(number))
  claim.release()
  claim.whenReleased(() => called.push(50_000))
  t.strictSame(called, [...numbers, 50_000])
})

// The old table of a Map that had grown kept the claim until the next full collection. The claim kept the stream, with the request
// and the response.
t.test('a claim drops its holder on release, and never ends that holder afterwards', async t => {
  const holder = new PlainHolder()
  const claim = claimOf(holder)
  t.equal(claim.holder, holder)
  claim.release()
  t.not(claim.holder, holder)
  claim.end('evicted')
  t.strictSame(holder.reasons, [])
})

t.test('a claim takes its key once, and never after its holder was told to end', async t => {
  const claim = claimOf(new PlainHolder())
  t.ok(claim.hold())
  t.notOk(claim.hold())

  const told = claimOf(new PlainHolder())
  told.end('replaced')
  t.notOk(told.hold())

  const endsByItself = claimOf(Object.assign(new PlainHolder(), { closing: true }))
  t.notOk(endsByItself.hold())
})
