// A claim as the registry keeps it: what its `gone` promises to whoever asks, early or late.
import t from 'tap'
import { RegisteredClaim } from '../lib/claim.ts'
import { streamKey } from '../lib/stream-key.ts'
import { memoryLog } from './kit/memory-log.ts'
import { PlainHolder } from './kit/plain-holder.ts'

// An adapter hands it on to other processes: a rejection would have been unhandled, and the answer never sent.
t.test('`gone` resolves for whoever asks before and after, also when the holder rejects', async t => {
  const holder = new PlainHolder()
  const claim = new RegisteredClaim(streamKey('ann', 'a'), holder, memoryLog().log)
  const early = claim.gone
  holder.gone.catch(() => {})
  holder.leave(new Error('a socket that broke'))
  claim.noteGone()
  t.equal(await early, undefined)
  t.equal(await claim.gone, undefined)

  const other = new RegisteredClaim(streamKey('ann', 'b'), new PlainHolder(), memoryLog().log)
  other.noteGone()
  t.equal(await other.gone, undefined, 'asked only after')
})

// The old table of a Map that grew kept the claim, and through it the stream, its request and its response, to the next full collection.
t.test('a claim lets go of its holder when that is gone, and ends it no more', t => {
  const holder = new PlainHolder()
  const claim = new RegisteredClaim(streamKey('ann', 'a'), holder, memoryLog().log)
  t.equal(claim.holder, holder)
  claim.noteGone()
  t.not(claim.holder, holder)
  claim.end('evicted')
  t.strictSame(holder.reasons, [])
  t.end()
})
