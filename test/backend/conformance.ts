// What every backend must do: one suite, which takes a builder and runs on each of them.
import type { Test } from 'tap'
import type { Backend, Claim } from '../../lib/backend.ts'
import { streamKey } from '../../lib/stream-key.ts'
import type { StreamKey } from '../../lib/index.ts'

export function backendConformance (t: Test, build: () => Backend<Claim>): void {
  const claimOn = (key: StreamKey): Claim => ({ key, holder: { close () {}, gone: Promise.resolve() }, gone: Promise.resolve() })
  const key = (scope: string, tab = 'a') => streamKey(scope, tab)

  t.test('of any number of claims on one key each but the first is given exactly the one before it', async t => {
    const backend = build()
    const claims = Array.from({ length: 64 }, () => claimOn(key('ann')))
    t.strictSame(claims.map(claim => backend.claim(claim)), [undefined, ...claims.slice(0, -1)])
    t.equal(backend.get(key('ann')), claims.at(-1))
  })

  t.test('a claim that is released is forgotten; one that is not the newest is left where it is', async t => {
    const backend = build()
    const [first, second] = [claimOn(key('ann')), claimOn(key('ann'))]
    backend.claim(first)
    backend.claim(second)
    backend.release(first)
    t.equal(backend.get(key('ann')), second)
    backend.release(second)
    backend.release(second)
    t.equal(backend.get(key('ann')), undefined)
    t.equal(backend.claim(claimOn(key('ann'))), undefined)
  })

  t.test('claims on other tabs and in other scopes are not given, and not forgotten', async t => {
    const backend = build()
    const claims = [claimOn(key('ann', 'a')), claimOn(key('ann', 'b')), claimOn(key('bob', 'a'))]
    for (const claim of claims) t.equal(backend.claim(claim), undefined)
    backend.release(claims[0]!)
    t.strictSame([...backend], claims.slice(1))
    t.strictSame(backend.scope(key('bob').scope), [claims[2]])
  })

  t.test('the claims of a scope come the oldest first, a replaced one as young as its last claim', async t => {
    const backend = build()
    const claims = ['a', 'b', 'c', 'a'].map(tab => claimOn(key('ann', tab)))
    for (const claim of claims) backend.claim(claim)
    t.strictSame(backend.scope(key('ann').scope), claims.slice(1))
  })

  t.test('what is unknown is absent', async t => {
    const backend = build()
    t.equal(backend.get(key('ann')), undefined)
    t.strictSame(backend.scope(key('ann').scope), [])
    t.strictSame([...backend], [])
    backend.release(claimOn(key('ann')))
  })
}
