// The queue that calls back many entries after the same delay.
import { setImmediate as turn } from 'node:timers/promises'
import FakeTimers from '@sinonjs/fake-timers'
import t, { type Test } from 'tap'
import { DelayQueue } from '../lib/delay-queue.ts'

/** A queue with a delay of 100 ms, on a clock that the test moves. */
function fakeQueue (t: Test, onDue: (value: string, queue: DelayQueue<string>) => void = () => {}) {
  const clock = FakeTimers.install({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
  t.teardown(() => clock.uninstall())
  const due: string[] = []
  const pass = async (milliseconds: number) => {
    clock.tick(milliseconds)
    await turn()
  }
  const queue: DelayQueue<string> = new DelayQueue(100, value => {
    due.push(value)
    onDue(value, queue)
  })
  return { queue, due, pass, timers: () => clock.countTimers() }
}

t.test('entries are due in their order, each after the delay, and once', async t => {
  const { queue, due, pass } = fakeQueue(t)
  queue.add('a')
  await pass(60)
  queue.add('b')
  await pass(39)
  t.strictSame(due, [])
  await pass(1)
  t.strictSame(due, ['a'])
  await pass(59)
  t.strictSame(due, ['a'])
  await pass(1)
  t.strictSame(due, ['a', 'b'])
  await pass(1_000)
  t.strictSame(due, ['a', 'b'])
})

t.test('a deleted entry is never due, and drops its value', async t => {
  const { queue, due, pass } = fakeQueue(t)
  const entry = queue.add('a')
  queue.add('b')
  queue.delete(entry)
  queue.delete(entry)
  t.equal(entry.value, undefined)
  await pass(100)
  t.strictSame(due, ['b'])
})

t.test('any number of entries takes a single timer', async t => {
  const { queue, timers, pass } = fakeQueue(t)
  for (let i = 0; i < 1_000; i++) queue.delete(queue.add('short'))
  queue.add('long')
  t.equal(timers(), 1)
  await pass(100)
  t.equal(timers(), 0)
})

t.test('entries that are added while others are handled are due as well, and take no further timer', async t => {
  const { due, pass, timers, queue } = fakeQueue(t, (value, queue) => { queue.add(value) })
  queue.add('a')
  await pass(50)
  queue.add('b')
  for (let halves = 0; halves < 20; halves++) {
    await pass(50)
    t.equal(timers(), 1)
  }
  t.strictSame(due, Array(10).fill(['a', 'b']).flat())
})

t.test('an error of the callback does not stop the queue', async t => {
  const clock = FakeTimers.install({ toFake: ['setTimeout', 'setImmediate', 'performance'] })
  t.teardown(() => clock.uninstall())
  const due: string[] = []
  const queue = new DelayQueue<string>(10, value => {
    due.push(value)
    if (value === 'a') throw new Error('a fault')
  })
  queue.add('a')
  queue.add('b')
  clock.tick(10)
  t.throws(() => clock.runToLast(), { message: 'a fault' })
  clock.runAll()
  t.strictSame(due, ['a', 'b'])
})

t.test('the queue keeps the process alive while it has entries, and not afterwards', async t => {
  const timers = () => process.getActiveResourcesInfo().filter(name => name === 'Timeout').length
  const before = timers()
  const queue = new DelayQueue<string>(600_000, () => {})
  const entry = queue.add('a')
  t.equal(timers(), before + 1)
  queue.delete(entry)
  t.equal(timers(), before)
  queue.delete(queue.add('b'))
  const last = queue.add('c')
  t.equal(timers(), before + 1)
  queue.delete(queue.add('d'))
  t.equal(timers(), before + 1)
  queue.delete(last)
})

t.test('entries keep the process alive unless the queue says otherwise', async t => {
  const isAlive = () => process.getActiveResourcesInfo().includes('Timeout')
  const own = isAlive()
  const idle = new DelayQueue(60_000, () => {}, false)
  for (let i = 0; i < 2; i++) {
    const entry = idle.add('a')
    t.equal(isAlive(), own)
    idle.delete(entry)
  }
  const keeping = new DelayQueue(60_000, () => {})
  const entry = keeping.add('a')
  t.ok(isAlive())
  keeping.delete(entry)
  t.equal(isAlive(), own)
})
