// Waiting for claims of other processes: messages that come early, late, or not at all.
import t from 'tap'
import { Bucket } from '../../lib/redis/claims.ts'
import { PendingEnds, type PendingEnd } from '../../lib/redis/ends.ts'
import type { Asked } from '../../lib/redis/protocol.ts'
import { memoryLog } from '../kit/memory-log.ts'

const bucket = new Bucket(0)
const claim = (number: number): Asked => ({ member: 'm1', number, reason: 'replaced', digest: '0a', field: 'x:', receivers: 1 })

function build (timeout = 600_000) {
  const { log, lines } = memoryLog()
  const asked: PendingEnd[] = []
  const ends = new PendingEnds({ timeout, log, ask: (_bucket, pending) => { asked.push(...pending) } })
  return { ends, asked, lines }
}

// The message travels on another connection than the reply. The message was dropped, and the newcomer waited for the next question.
t.test('a claim that was gone before the wait began is not awaited', async t => {
  const { ends, asked } = build()
  ends.onGone('m1', 1)
  t.equal(await ends.wait(bucket, [claim(1)]), 1)
  const both = ends.wait(bucket, [claim(1), claim(2)])
  ends.onGone('m1', 2)
  t.equal(await both, 2)
  t.strictSame(asked, [])
  ends.giveUp()
})

t.test('at most 10,000 early messages are remembered, and these are the newest', async t => {
  const { ends } = build()
  for (let number = 1; number <= 10_001; number++) ends.onGone('m1', number)
  t.equal(await ends.wait(bucket, [claim(2), claim(10_001)]), 2)
  let isGone = false
  const oldest = ends.wait(bucket, [claim(1)]).then(() => { isGone = true })
  await ends.wait(bucket, [claim(3)])
  t.notOk(isGone)
  ends.onGone('m1', 1)
  await oldest
  ends.giveUp()
})

t.test('a wait that times out names the missing claims, and resolves to the number of claims that are gone', async t => {
  const { ends, lines } = build(20)
  const waiting = ends.wait(bucket, [claim(1), claim(2)])
  ends.onGone('m1', 1)
  t.equal(await waiting, 1)
  t.match(lines, [{ level: 'warn', message: /within replaceTimeout/, details: { members: ['m1'] } }])
  ends.giveUp()
})

// The eviction of a process that was closing resolved as if all streams were gone.
t.test('giving up ends every wait, counts nothing as gone, and lets no wait begin', async t => {
  const { ends, lines } = build()
  const waiting = ends.wait(bucket, [claim(1), claim(2)])
  ends.onGone('m1', 1)
  ends.giveUp()
  t.equal(await waiting, 1)
  t.equal(await ends.wait(bucket, [claim(3)]), 0)
  t.strictSame(lines, [])
})

t.test('a process asks again for any number of claims, at most 250 at a time', async t => {
  const { log } = memoryLog()
  const pages: number[] = []
  const ends: PendingEnds = new PendingEnds({
    timeout: 600_000,
    log,
    ask (_bucket, pending) {
      pages.push(pending.length)
      for (const end of pending) ends.settle(end)
    }
  })
  t.equal(await ends.wait(bucket, Array.from({ length: 501 }, (_, i) => claim(i + 1))), 501)
  // How many claims are due at a tick depends on the machine. Each claim is asked once.
  t.ok(pages.every(length => length <= 250), `pages of ${pages.join(', ')} claims`)
  t.equal(pages.reduce((sum, length) => sum + length), 501)
  ends.giveUp()
})
