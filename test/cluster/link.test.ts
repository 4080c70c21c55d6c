// What the link does where its client fails it: a script that is not known, a subscription that does not come about.
import { EventEmitter } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { RedisLink, type RedisClient } from '../../lib/redis/link.ts'
import type { Member } from '../../lib/redis/member.ts'

class FakeClient extends EventEmitter {
  status = 'ready'
  subscriber: FakeClient | undefined
  calls: unknown[][] = []
  failing: Record<string, string> = {}
  duplicate () {
    this.subscriber = new FakeClient()
    return this.subscriber
  }

  async #call (name: string, ...args: unknown[]) {
    this.calls.push([name, ...args])
    if (this.failing[name] !== undefined) throw new Error(this.failing[name])
    return 1
  }

  evalsha () { return this.#call('evalsha') }
  eval () { return this.#call('eval') }
  publish () { return this.#call('publish') }
  subscribe () { return this.#call('subscribe') }
  disconnect (reconnect?: boolean) { this.calls.push(['disconnect', reconnect]) }
}

function build () {
  const client = new FakeClient()
  let returns = 0
  const member = { channel: 'ch', heard () {}, returned () { returns++ } } as unknown as Member
  const link = new RedisLink(client as unknown as RedisClient, member)
  return { client, subscriber: client.subscriber!, link, returns: () => returns }
}

const script = { lua: 'return 1', sha: 'abc' }

t.test('a script that Redis does not know is sent whole, unless nobody wants it any more', async t => {
  const { client, link } = build()
  client.failing.evalsha = 'NOSCRIPT No matching script.'
  t.equal(await link.run(script, [], []), 1)
  t.equal(await link.run(script, [], [], () => true), 1)
  t.equal(await link.run(script, [], [], () => false), undefined)
  t.strictSame(client.calls.filter(([name]) => name === 'eval').length, 2)
  client.failing.evalsha = 'READONLY You can\'t write against a read only replica.'
  await t.rejects(link.run(script, [], []), { message: /READONLY/ })
})

t.test('a subscription that fails is none, and the next connection makes another', async t => {
  const { subscriber, link, returns } = build()
  subscriber.failing.subscribe = 'Connection is closed.'
  subscriber.emit('error', new Error('is not thrown'))
  subscriber.emit('ready')
  await turn()
  t.strictSame([link.hears, returns()], [false, 0])
  subscriber.failing = {}
  subscriber.emit('ready')
  await turn()
  t.strictSame([link.hears, returns()], [true, 1])
  subscriber.emit('close')
  t.equal(link.hears, false)
})

t.test('a deaf subscription is connected anew; a closed link leaves the application\'s client as it was', async t => {
  const { client, subscriber, link } = build()
  link.resubscribe()
  link.close()
  t.strictSame(subscriber.calls, [['disconnect', true], ['disconnect', undefined]])
  t.strictSame(client.calls, [])
  t.equal(client.listenerCount('ready'), 0)
})
