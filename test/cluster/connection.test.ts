// What a connection does if the client fails: Redis does not know a script, or a subscription is refused.
import { EventEmitter } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { IoredisConnection, type RedisClient } from '../../lib/redis/connection.ts'

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
  let readies = 0
  const listener = { channel: 'ch', onMessage () {}, onReady () { readies++ } }
  const connection = new IoredisConnection(client as unknown as RedisClient, listener)
  return { client, subscriber: client.subscriber!, connection, readies: () => readies }
}

const script = { lua: 'return 1', sha: 'abc' }

t.test('a script that Redis does not know is sent whole, unless the script is not wanted any more', async t => {
  const { client, connection } = build()
  client.failing.evalsha = 'NOSCRIPT No matching script.'
  t.equal(await connection.run(script, [], []), 1)
  t.equal(await connection.run(script, [], [], () => true), 1)
  t.equal(await connection.run(script, [], [], () => false), undefined)
  t.strictSame(client.calls.filter(([name]) => name === 'eval').length, 2)
  client.failing.evalsha = 'READONLY You can\'t write against a read only replica.'
  await t.rejects(connection.run(script, [], []), { message: /READONLY/ })
})

t.test('after a subscription has failed, the next connection subscribes again', async t => {
  const { subscriber, connection, readies } = build()
  subscriber.failing.subscribe = 'Connection is closed.'
  subscriber.emit('error', new Error('is not thrown'))
  subscriber.emit('ready')
  await turn()
  t.strictSame([connection.isSubscribed, readies()], [false, 0])
  subscriber.failing = {}
  subscriber.emit('ready')
  await turn()
  t.strictSame([connection.isSubscribed, readies()], [true, 1])
  subscriber.emit('close')
  t.equal(connection.isSubscribed, false)
})

t.test('resubscribing reconnects the subscriber; closing leaves the application\'s client as it was', async t => {
  const { client, subscriber, connection } = build()
  connection.resubscribe()
  connection.close()
  t.strictSame(subscriber.calls, [['disconnect', true], ['disconnect', undefined]])
  t.strictSame(client.calls, [])
  t.equal(client.listenerCount('ready'), 0)
})
