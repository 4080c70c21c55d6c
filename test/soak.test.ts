// Runs the soak for a minute, like `npm run soak -- 1`. The tabs and the faults do everything at least once, and nothing is lost.
import t from 'tap'
import { startChild } from './kit/child.ts'
import { redisOptions } from './kit/redis.ts'
import { repeatWith, seed } from './kit/seed.ts'

// The soak stops itself if nothing that was planned is done for four minutes, however long everything takes together.
t.setTimeout(3_600_000)

const DONE = [
  'answered 204', 'sent another request on a kept socket', 'came back after the farewell', 'ended as disconnected', 'ended as evicted',
  'ended as expired', 'ended as failed', 'ended as finished', 'ended as replaced', 'ended as stalled', 'events received', 'failed on purpose',
  'was given up after replaceTimeout', 'keys looked at, at rest', 'left', 'lists', 'logged out', 'met a handler that throws before starting its stream',
  'messages delivered', 'messages lost: the cable was pulled', 'messages lost: the client left', 'messages sent to a scope', 'messages sent to everybody', 'navigated',
  'open streams found whole at the end', 'opened', 'opened beside the previous stream', 'opened on a kept socket', 'opened while nothing was excused',
  'pulled the cable', 'raced', 'reloaded', 'scopes that came online', 'scopes that went offline', 'sent nonsense', 'stopped reading what floods', 'stopped reading what pours',
  'streams of a scope that a message left out'
]
const DONE_ACROSS = [
  'closed and restarted a process', 'cut processes off from Redis, and reconnected them', 'ended as shutdown', 'killed Redis and restarted an empty Redis',
  'killed and restarted a process', 'lost messages of Redis', 'messages delivered by another process', 'messages lost: Redis was killed',
  'missed Redis', 'stopped a process for a while'
]

t.test('tabs that do everything for a minute, on one process and on three with Redis, lose nothing', async t => {
  const child = startChild(t, 'soak/run.js', { SEED: String(seed), ...process.env.CI === undefined ? {} : { CI: process.env.CI } }, [], ['1'])
  const output: string[] = []
  child.lines.on('line', line => output.push(line))
  const [code] = await child.exited
  for (const line of output) t.comment(line)
  t.equal(code, 0, `${repeatWith(import.meta.url)}, or SEED=${seed} npm run soak -- 1\n${child.errors()}`)
  const phases = output.join('\n').split(/^(?=One process$|Three processes and a Redis$)/m).slice(1)
  t.equal(phases.length, redisOptions.skip === false ? 2 : 1)
  for (const [i, phase] of phases.entries()) {
    const done = new Set([...phase.matchAll(/^ +[1-9]\d* {2}(.+)$/gm)].map(([, what]) => what!))
    t.strictSame([...DONE, ...i === 1 ? DONE_ACROSS : []].filter(what => !done.has(what)), [], 'the soak did everything at least once')
  }
})
