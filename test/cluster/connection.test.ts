// The connection with any client library: scripts that Redis does not know, and attempts to subscribe that fail.
import FakeTimers from '@sinonjs/fake-timers'
import { createClientPool } from 'redis'
import t, { type Test } from 'tap'
import { driverOf } from '../../lib/redis/clients/index.ts'
import { DrivenConnection, type RedisDriver, type SubscribeRequest } from '../../lib/redis/connection.ts'
import { deferred, type Deferred } from '../../lib/wait.ts'

class FakeDriver implements RedisDriver {
  canSend = true
  readonly countsReceivers = true
  readonly calls: string[] = []
  readonly attempts: Array<SubscribeRequest & Deferred<void>> = []
  readonly failing: Record<string, Error> = {}
  onReady: (() => void) | undefined

  async callScript (command: 'EVAL' | 'EVALSHA') {
    this.calls.push(command)
    if (this.failing[command] !== undefined) throw this.failing[command]
    return 1
  }

  nodeOf (): undefined {}

  watchReady (listener: () => void) {
    this.onReady = listener
    return () => { this.onReady = undefined }
  }

  subscribe (request: SubscribeRequest): Promise<void> {
    const settled = deferred<void>()
    this.attempts.push({ ...request, ...settled })
    return settled.promise
  }

  close () { this.calls.push('close') }

  get last () { return this.attempts.at(-1)! }
}

function build (t: Test) {
  const clock = FakeTimers.install({ toFake: ['setTimeout', 'clearTimeout', 'setImmediate'] })
  t.teardown(() => clock.uninstall())
  const driver = new FakeDriver()
  const said = { messages: [] as string[], deaf: [] as string[], readies: 0 }
  const connection = new DrivenConnection(driver, {
    channel: 'ch',
    onMessage (message) { said.messages.push(message) },
    onReady () { said.readies++ },
    onDeaf ({ message }) { said.deaf.push(message) }
  })
  return { clock, driver, connection, said }
}

/** Makes an attempt fail, as a driver does that notices a broken connection. */
async function lose (clock: ReturnType<typeof FakeTimers.install>, driver: FakeDriver, message: string) {
  driver.last.onLost(new Error(message))
  await clock.tickAsync(0)
}

const script = { lua: 'return 1', sha: 'abc' }

t.test('a script that Redis does not know is sent whole, unless nobody needs the script any more', async t => {
  const { driver, connection } = build(t)
  driver.failing['EVALSHA'] = new Error('NOSCRIPT No matching script.')
  t.equal(await connection.run(script, ['a'], []), 1)
  t.equal(await connection.run(script, ['a'], [], () => true), 1)
  t.equal(await connection.run(script, ['a'], [], () => false), undefined)
  t.strictSame(driver.calls, ['EVALSHA', 'EVAL', 'EVALSHA', 'EVAL', 'EVALSHA'])
  driver.failing['EVALSHA'] = new Error('READONLY You can\'t write against a read only replica.')
  await t.rejects(connection.run(script, ['a'], []), { message: /READONLY/ })
})

t.test('a failed attempt to subscribe is repeated for ever, after 100 ms and then twice as long each time, up to 5 s', async t => {
  const { clock, driver, said } = build(t)
  for (const delay of [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000]) {
    await lose(clock, driver, `before ${delay}`)
    const { length } = driver.attempts
    await clock.tickAsync(delay - 1)
    t.equal(driver.attempts.length, length)
    await clock.tickAsync(1)
    t.equal(driver.attempts.length, length + 1, `tried again after ${delay} ms`)
  }
  t.equal(said.deaf.length, 9)
  t.equal(said.readies, 0)
})

t.test('after a success the delays start from the beginning, and the connection is reported as ready', async t => {
  const { clock, driver, connection, said } = build(t)
  for (let i = 0; i < 5; i++) {
    await lose(clock, driver, 'no')
    await clock.tickAsync(5_000)
  }
  driver.last.resolve()
  await clock.tickAsync(0)
  t.strictSame([connection.isSubscribed, said.readies], [true, 1])
  driver.last.onMessage('heard')
  driver.last.onLost(new Error('reset'))
  t.equal(connection.isSubscribed, false, 'known at once')
  t.equal(driver.last.signal.aborted, true, 'what is left of the old connection is closed')
  driver.last.onMessage('from a connection that was given up')
  t.strictSame(said.messages, ['heard'])
  await clock.tickAsync(100)
  t.equal(driver.attempts.length, 7)
})

t.test('a subscription that breaks in the turn in which Redis confirms it is lost', async t => {
  const { clock, driver, connection, said } = build(t)
  driver.last.resolve()
  driver.last.onLost(new Error('reset'))
  await clock.tickAsync(0)
  t.strictSame([connection.isSubscribed, said.readies, said.deaf], [false, 0, ['reset']])
  await clock.tickAsync(100)
  t.equal(driver.attempts.length, 2)
})

t.test('an attempt without an answer is given up after 10 s', async t => {
  const { clock, driver, connection, said } = build(t)
  await clock.tickAsync(9_999)
  t.strictSame(said.deaf, [])
  // A millisecond is for the timer, and a millisecond is for the data that has arrived by then.
  await clock.tickAsync(2)
  t.strictSame(said.deaf, ['Redis must confirm the subscription to ch within 10000 ms, and did not'])
  t.equal(driver.last.signal.aborted, true)
  driver.last.resolve()
  await clock.tickAsync(0)
  t.equal(connection.isSubscribed, false, 'a late answer does not count')
})

t.test('a client that is ready again ends the delay', async t => {
  const { clock, driver, said } = build(t)
  for (let i = 0; i < 5; i++) {
    await lose(clock, driver, 'no')
    await clock.tickAsync(5_000)
  }
  await lose(clock, driver, 'no')
  driver.canSend = false
  driver.onReady!()
  t.equal(driver.attempts.length, 7)
  t.equal(said.readies, 0, 'the client cannot send yet')
  driver.canSend = true
  driver.onReady!()
  t.equal(driver.attempts.length, 7, 'one attempt at a time')
  t.equal(said.readies, 1)
  await clock.tickAsync(5_000)
  t.equal(driver.attempts.length, 7, 'the delayed attempt is not made as well')
})

t.test('resubscribing gives up the present subscription, and reports nothing', async t => {
  const { clock, driver, connection, said } = build(t)
  driver.last.resolve()
  await clock.tickAsync(0)
  const first = driver.last
  first.signal.addEventListener('abort', () => first.onLost(new Error('aborted')))
  connection.resubscribe()
  t.equal(connection.isSubscribed, false)
  t.equal(first.signal.aborted, true)
  t.equal(driver.attempts.length, 2)
  driver.last.resolve()
  await clock.tickAsync(0)
  t.equal(connection.isSubscribed, true)
  t.strictSame(said.deaf, [])
})

t.test('closing ends everything', async t => {
  const { clock, driver, connection, said } = build(t)
  driver.last.signal.addEventListener('abort', () => driver.last.onLost(new Error('aborted')))
  connection.close()
  t.equal(driver.last.signal.aborted, true)
  await clock.tickAsync(0)
  t.equal(clock.countTimers(), 0, 'the connection does not keep the process alive')
  driver.last.resolve()
  await clock.tickAsync(60_000)
  connection.resubscribe()
  t.equal(driver.attempts.length, 1)
  t.equal(driver.onReady, undefined)
  t.strictSame([connection.isSubscribed, said.readies, said.deaf, driver.calls], [false, 0, [], ['close']])
})

t.test('a pool that is not connected sends nothing, and its error says so', async t => {
  const driver = driverOf(createClientPool({ socket: { host: '127.0.0.1', port: 1 } }))!()
  t.notOk(driver.canSend)
  await t.rejects(driver.callScript('EVAL', 'return 1', ['a'], []), { message: 'the client must be connected to Redis, and is not' })
  driver.close()
})
