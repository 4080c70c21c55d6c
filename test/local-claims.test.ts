// The claims of a single process: the newest claim of each key, found by key and by scope.
import t from 'tap'
import { LocalClaims } from '../lib/registry/local-claims.ts'
import { streamKey } from '../lib/registry/stream-key.ts'
import type { StreamKey } from '../lib/index.ts'

const key = (scope: string, tab = 'a') => streamKey(scope, tab)
const claimOn = (key: StreamKey) => ({ key })

t.test('each claim on a key except the first is given exactly the claim before it', async t => {
  const claims = new LocalClaims<{ key: StreamKey }>()
  const racers = Array.from({ length: 64 }, () => claimOn(key('ann')))
  t.strictSame(racers.map(claim => claims.claim(claim)), [undefined, ...racers.slice(0, -1)])
  t.equal(claims.get(key('ann')), racers.at(-1))
})

t.test('a released claim is forgotten, and releasing a claim that is not the newest changes nothing', async t => {
  const claims = new LocalClaims<{ key: StreamKey }>()
  const [first, second] = [claimOn(key('ann')), claimOn(key('ann'))]
  claims.claim(first)
  claims.claim(second)
  claims.release(first)
  t.equal(claims.get(key('ann')), second)
  claims.release(second)
  claims.release(second)
  t.equal(claims.get(key('ann')), undefined)
  t.equal(claims.claim(claimOn(key('ann'))), undefined)
})

t.test('claims on other tabs and in other scopes are neither given nor forgotten', async t => {
  const claims = new LocalClaims<{ key: StreamKey }>()
  const others = [claimOn(key('ann', 'a')), claimOn(key('ann', 'b')), claimOn(key('bob', 'a'))]
  for (const claim of others) t.equal(claims.claim(claim), undefined)
  claims.release(others[0]!)
  t.strictSame(claims.toArray(), others.slice(1))
  t.strictSame(claims.scope(key('bob').scope), [others[2]])
})

t.test('the claims of a scope are listed oldest first, and a replaced key is as young as its newest claim', async t => {
  const claims = new LocalClaims<{ key: StreamKey }>()
  const inOrder = ['a', 'b', 'c', 'a'].map(tab => claimOn(key('ann', tab)))
  for (const claim of inOrder) claims.claim(claim)
  t.strictSame(claims.scope(key('ann').scope), inOrder.slice(1))
})

t.test('an unknown key or scope has no claim', async t => {
  const claims = new LocalClaims<{ key: StreamKey }>()
  t.equal(claims.get(key('ann')), undefined)
  t.strictSame(claims.scope(key('ann').scope), [])
  t.strictSame(claims.toArray(), [])
  claims.release(claimOn(key('ann')))
})
