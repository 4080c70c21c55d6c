// 200,000 requests of every shape against a live server: no request is answered with a 5xx, no event is lost, and nothing is left behind.
import { once } from 'node:events'
import net from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { withSignals, LEVELS } from '../kit/app.ts'
import { describe, drawAttack, type Attack } from '../kit/attack.ts'
import { connect } from '../kit/client.ts'
import { localAddress, startHostile, type HostileState } from '../kit/hostile.ts'
import { Random } from '../kit/random.ts'
import { repeatWith, seed } from '../kit/seed.ts'

const REQUESTS = Number(process.env.FUZZ_REQUESTS ?? 200_000)
const AT_ONCE = 64
// While a request that is pipelined behind a stream waits, Node does not read on, and so does not notice that the client left. A heartbeat notices.
const HEARTBEAT_MS = 500
// Measures time in events of the server, which a slow machine sends less often. The limit for an answer is far longer than `closeGrace`.
const BEAT_MS = 100
const PATIENCE_BEATS = 300
const repeat = repeatWith(import.meta.url)

const seen: Record<string, number> = {}

/** Resolves when the client has disconnected. Rejects if a whole request is not answered, or is answered with a 5xx. */
async function carryOut (attack: Attack, port: number, nth: number, beats: () => number): Promise<void> {
  const socket = net.connect({ port, host: '127.0.0.1', localAddress: localAddress(nth) })
  let heard = ''
  let answered = false
  // A reset counts as an answer: the reset may overtake an answer if the server closes the connection before everything was sent.
  socket.on('error', () => { answered = true })
  let leave = () => {}
  const answer = new Promise<void>(resolve => { leave = resolve })
  let wrong: string | undefined
  const closed = new Promise<void>(resolve => socket.once('close', () => resolve()))
  closed.then(leave)
  socket.setEncoding('latin1').on('data', (text: string) => {
    // A status line may come in two pieces.
    heard = heard.slice(-12) + text
    for (const [, status] of heard.matchAll(/HTTP\/1\.1 (\d{3})/g)) {
      seen[status!] = (seen[status!] ?? 0) + 1
      if (status! >= '500') wrong = `answered ${status}`
      answered = true
    }
    heard = heard.slice(-11)
    leave()
  })
  if (!attack.reads) socket.pause()
  const began = beats()
  const impatience = setInterval(() => {
    if (beats() - began < PATIENCE_BEATS) return
    wrong ??= `not answered, or not closed, while the server sent ${PATIENCE_BEATS} events`
    socket.destroy()
  }, BEAT_MS)

  for (const chunk of attack.chunks) {
    socket.write(chunk)
    if (attack.chunks.length > 1) await turn()
  }
  if (attack.waits && attack.reads) await answer
  if (attack.waits && attack.reads && !answered) wrong ??= 'closed without an answer'
  for (let i = attack.turns; i > 0; i--) await turn()
  if (attack.how === 'end') {
    socket.end()
    // The server may not notice the end before reading the earlier requests, which wait for earlier streams.
    if (attack.requests > 1 || !attack.whole) {
      await turn()
      socket.destroy()
    } else socket.resume()
  } else if (attack.how === 'reset') socket.resetAndDestroy()
  else socket.destroy()
  await closed
  clearInterval(impatience)
  if (wrong !== undefined) throw new Error(`${wrong}: ${describe(attack)}`)
}

// Stops only a test that hangs: a request takes a fraction of a millisecond.
t.setTimeout(300_000 + REQUESTS * 10)

t.test(`${REQUESTS} requests, seed ${seed}, cause no 5xx and no error, touch no other scope, and leave nothing behind`, async t => {
  const server = await startHostile(t, { heartbeat: BEAT_MS, options: { sse: { heartbeatInterval: HEARTBEAT_MS } } })
  const bystanders = await Promise.all(Array.from({ length: 4 }, (_, i) => connect(server.url(withSignals('/only/bystander', { tabId: `bystander ${i}` })))))
  const holders = [await connect(server.url(withSignals('/only/holder', { tabId: 'holder' }))), await connect(server.url('/schema/holder'), { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"tabId":"holder"}' })]
  const random = new Random(seed)
  let drawn = 0
  let connections = 0
  const failures: string[] = []
  async function attacker () {
    while (drawn < REQUESTS && failures.length === 0) {
      const attack = drawAttack(random)
      drawn += attack.requests
      await carryOut(attack, server.port, connections++, () => bystanders[0]!.events.length).catch(error => failures.push(error.message))
    }
  }
  const crash = server.exited.then(([code, signal]) => { failures.push(`the server ended: ${code} ${signal} ${server.errors()}`) })
  await Promise.race([Promise.all(Array.from({ length: AT_ONCE }, attacker)), crash])
  t.strictSame(failures, [], repeat)
  if (failures.length > 0) return

  // Only the streams of the bystanders and of the holders are left.
  const over = await server.state()
  const left = (count: number) => ({ size: count, connections: count, streams: count, responses: count, claims: count })
  const isLeft = ({ size, connections, objects }: HostileState) => ({ size, connections, ...objects })
  const state = await server.until(state => Object.values(isLeft(state)).every(count => count === 6))
  const { log, escaped, statuses, reasons } = state
  const wait = (state.beats - over.beats) * BEAT_MS
  t.ok(wait < 20 * HEARTBEAT_MS, `gone ${wait} ms after the last client: ${repeat}`)
  t.strictSame(log.filter(({ level, msg }) => level >= LEVELS.error || !msg.includes('two tabs use the same tab id')), [], repeat)
  t.strictSame(escaped, [], repeat)
  t.equal(server.errors(), '', repeat)
  t.strictSame(Object.keys(statuses).filter(status => status >= '500'), [], repeat)
  t.equal(await server.count('bystander'), 4, repeat)
  t.equal(await server.count('holder'), 2, repeat)
  t.equal([...bystanders, ...holders].filter(client => client.text.includes('octa-star-closed')).length, 0, `the bystanders and the holders never notice: ${repeat}`)
  // If a bystander has lost its stream, the loop below would wait forever.
  if (!t.strictSame(isLeft(state), left(6), repeat)) return

  // Each bystander got every event, from the first to the last, on the connection that it opened.
  const { beats } = await server.state()
  for (const bystander of bystanders) {
    while (Number(bystander.events.at(-1)!.data) < beats) await once(bystander, 'received')
    const heard = bystander.events.filter(({ event }) => event === 'beat').map(({ data }) => Number(data))
    t.strictSame(heard, heard.map((_, i) => heard[0]! + i), `an event is missing: ${repeat}`)
    t.ok(heard.length > 10)
  }

  for (const client of [...bystanders, ...holders]) client.leave()
  const end = await server.until(state => Object.values(isLeft(state)).every(count => count === 0))
  t.strictSame(isLeft(end), left(0), repeat)

  t.comment(JSON.stringify({ connections, seen, reasons, wait, heap: end.heap }))
  // The run proves nothing unless the requests reached each of these outcomes.
  for (const status of ['200', '204', '400', '404', '406', '413', '415', '417', '431']) t.ok((seen[status] ?? 0) + (statuses[status] ?? 0) > 0, `no ${status}`)
  t.ok(reasons.disconnected! > REQUESTS / 20 && reasons.replaced! > REQUESTS / 1_000 && reasons.finished! > REQUESTS / 100, JSON.stringify(reasons))
})
