// What a member tells its link, seen without Redis.
import t from 'tap'
import type { Link } from '../../lib/redis/link.ts'
import { Member } from '../../lib/redis/member.ts'
import { streamKey } from '../../lib/stream-key.ts'
import { memoryLog } from '../kit/memory-log.ts'

// A claim that was answered NOSCRIPT was sent again behind a newer one of its process: it passed for the newest, and, with
// another process's claim between the two, each waited for the other until replaceTimeout.
t.test('a claim that has to be sent again is wanted no longer once its process has made a newer one', async t => {
  const wanted: Array<() => boolean> = []
  const link: Link = {
    sends: true,
    hears: true,
    countsHearers: true,
    async run (_script, _keys, _args, stillWanted) {
      if (stillWanted !== undefined) wanted.push(stillWanted)
      return undefined
    },
    publish: async () => 0,
    resubscribe () {},
    close () {}
  }
  const member = new Member({ prefix: '', lease: 30_000, replaceTimeout: 5_000, log: memoryLog().log }, () => link)
  const claim = (tab: string) => member.claim({ key: streamKey('ann', tab), gone: Promise.resolve(), end () {} })
  await Promise.all([claim('a'), claim('b')])
  t.strictSame(wanted.map(ask => ask()), [true, true])
  await claim('a')
  t.strictSame(wanted.map(ask => ask()), [false, true, true])
  await member.leave()
})
