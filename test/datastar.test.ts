// The Datastar adapter: the SDK's test cases of formatting, content that must not leave its event, and the signals of each verb.
import { createParser, type EventSourceMessage } from 'eventsource-parser'
import t from 'tap'
import { datastar, readSignals, type DatastarStream } from '../lib/datastar.ts'
import { buildApp, streamRoute, withSignals } from './kit/app.ts'
import { connect } from './kit/client.ts'
import { openStream } from './kit/fake-stream.ts'
import { watchUnhandled } from './kit/unhandled.ts'
import type { MessageTarget, StreamMessage } from '../lib/index.ts'

async function open () {
  const { stream, response } = await openStream()
  return { response, stream, sse: datastar(stream) }
}

/** Streams to which messages go. `count` of the streams take each message. */
function targetOf (count: number): MessageTarget & { sent: Array<string | StreamMessage> } {
  const sent: Array<string | StreamMessage> = []
  return {
    sent,
    async send (message) {
      sent.push(message)
      return count
    }
  }
}

const id = { eventId: 'event1', retryDuration: 2000 }

// The test cases of the SDK project for each method: with defaults, without options, with all options, and over several lines.
const cases: Array<[string, (sse: DatastarStream) => unknown, string[]]> = [
  ['patchElements with defaults', sse => sse.patchElements('<div>Merge</div>'),
    ['event: datastar-patch-elements', 'data: elements <div>Merge</div>']],
  ['patchElements leaves out defaults', sse => sse.patchElements('<div>Merge</div>', { mode: 'outer', useViewTransition: false, retryDuration: 1000 }),
    ['event: datastar-patch-elements', 'data: elements <div>Merge</div>']],
  ['patchElements with all options', sse => sse.patchElements('<div>Merge</div>', { selector: 'div', mode: 'append', useViewTransition: true, ...id }),
    ['event: datastar-patch-elements', 'id: event1', 'retry: 2000', 'data: selector div', 'data: mode append', 'data: useViewTransition true', 'data: elements <div>Merge</div>']],
  ['patchElements over several lines', sse => sse.patchElements('<div>\n  <span>Merge</span>\n</div>'),
    ['event: datastar-patch-elements', 'data: elements <div>', 'data: elements   <span>Merge</span>', 'data: elements </div>']],
  ['patchSignals with defaults', sse => sse.patchSignals('{"one":1}'),
    ['event: datastar-patch-signals', 'data: signals {"one":1}']],
  ['patchSignals with all options', sse => sse.patchSignals('{"one":1}', { onlyIfMissing: true, ...id }),
    ['event: datastar-patch-signals', 'id: event1', 'retry: 2000', 'data: onlyIfMissing true', 'data: signals {"one":1}']],
  ['patchSignals over several lines', sse => sse.patchSignals('{\n"one":1}'),
    ['event: datastar-patch-signals', 'data: signals {', 'data: signals "one":1}']],
  ['removeElements by selector', sse => sse.removeElements('#target'),
    ['event: datastar-patch-elements', 'data: selector #target', 'data: mode remove']],
  ['removeElements with all options', sse => sse.removeElements('#target', undefined, id),
    ['event: datastar-patch-elements', 'id: event1', 'retry: 2000', 'data: selector #target', 'data: mode remove']],
  ['removeSignals', sse => sse.removeSignals(['one', 'two'], id),
    ['event: datastar-patch-signals', 'id: event1', 'retry: 2000', 'data: signals {"one":null,"two":null}']],
  ['executeScript with defaults', sse => sse.executeScript("console.log('hello')"),
    ['event: datastar-patch-elements', 'data: mode append', 'data: selector body', 'data: elements <script data-effect="el.remove()">console.log(\'hello\')</script>']],
  ['executeScript with all options, over several lines', sse => sse.executeScript('if (true) {\n  go()\n}', { autoRemove: false, attributes: { type: 'module' }, ...id }),
    ['event: datastar-patch-elements', 'id: event1', 'retry: 2000', 'data: mode append', 'data: selector body', 'data: elements <script type="module">if (true) {', 'data: elements   go()', 'data: elements }</script>']]
]

t.test('a method that nobody awaits does not end the process, on a stream that has ended and with signals that are not valid', async t => {
  const unhandled = watchUnhandled(t)
  const { sse, stream } = await open()
  stream.close()
  sse.patchElements('<p>late</p>')
  sse.patchSignals('{')
  await new Promise(setImmediate)
  t.strictSame(unhandled, [])
})

for (const [title, send, lines] of cases) {
  t.test(title, async t => {
    const { sse, response } = await open()
    t.equal(await send(sse), undefined)
    t.equal(response.written, `${lines.join('\n')}\n\n`)
  })
}

for (const [title, send, lines] of cases) {
  t.test(`for many streams: ${title}`, async t => {
    const [stream, target] = [await open(), targetOf(7)]
    t.equal(await send(datastar(target) as unknown as DatastarStream), 7)
    await stream.stream.send(target.sent[0]!)
    t.equal(stream.response.written, `${lines.join('\n')}\n\n`)
    t.equal(target.sent.length, 1)
  })
}

t.test('each method reaches the streams that `streamRegistry.to` names, and resolves to their number', async t => {
  const app = await buildApp(t)
  streamRoute(app)
  app.fastify.post('/add', async request => {
    const others = datastar(app.fastify.streamRegistry.to('ann', { except: request.tabId }))
    return [
      await others.patchElements('<p id="a">ü</p>'), await others.patchSignals('{"one":1}'), await others.removeElements('#a'),
      await others.removeSignals('one'), await others.executeScript('go()')
    ]
  })
  await app.listen()
  const tabs = await Promise.all(['a', 'b', 'c'].map(tabId => connect(app.url(withSignals('/stream/ann', { tabId })))))
  const bob = await connect(app.url(withSignals('/stream/bob', { tabId: 'b' })))
  const response = await fetch(app.url('/add'), { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"tabId":"a"}' })
  t.strictSame(await response.json(), Array(5).fill(2))
  await app.fastify.streamRegistry.broadcast('the end')
  const data = ['elements <p id="a">ü</p>', 'signals {"one":1}', 'selector #a\nmode remove', 'signals {"one":null}', 'mode append\nselector body\nelements <script data-effect="el.remove()">go()</script>']
  for (const [tab, expected] of [[tabs[0]!, []], [tabs[1]!, data], [tabs[2]!, data], [bob, []]] as const) {
    await tab.event(expected.length + 1)
    t.strictSame(tab.events.map(event => event.data), [...expected, 'the end'])
  }
})

t.test('for many streams there is no `close`, and arguments that the SDK or `send` refuses reject', async t => {
  const many = datastar(targetOf(0))
  t.notOk('close' in many)
  let result: unknown
  t.doesNotThrow(() => { result = many.removeElements() })
  await t.rejects(result as Promise<number>)
  const app = await buildApp(t)
  await t.rejects(datastar(app.fastify.streamRegistry.to('ann')).patchSignals('{}', { eventId: '1\n' }), { code: 'FST_ERR_OCTA_STAR_EVENT' })
})

t.test('a CR in the content never ends a line on the wire, and every line keeps its first word', async t => {
  for (const end of ['\r', '\r\n', '\n']) {
    const { sse, response } = await open()
    await sse.patchElements(`<p>one${end}mode remove${end}${end}event: evil</p>`, { selector: `#a${end}, #b` })
    t.notOk(response.written.includes('\r'))
    const events: EventSourceMessage[] = []
    createParser({ onEvent: event => events.push(event) }).feed(response.written)
    t.strictSame(events.map(({ event, data }) => [event, data.split('\n')]), [[
      'datastar-patch-elements',
      ['selector #a', 'selector , #b', 'elements <p>one', 'elements mode remove', 'elements ', 'elements event: evil</p>']
    ]])
  }
})

t.test('an event id that contains a line end is refused', async t => {
  const { sse } = await open()
  await t.rejects(sse.patchSignals('{"one":1}', { eventId: '1\nevent: evil' }), { code: 'FST_ERR_OCTA_STAR_EVENT' })
})

t.test('a method that the SDK refuses rejects, and never throws synchronously', async t => {
  const { sse } = await open()
  const refused: Array<() => Promise<void>> = [
    () => sse.removeElements(),
    () => sse.patchElements(''),
    () => sse.patchElements('<p>one</p>', { mode: 'merge' as 'outer' })
  ]
  for (const call of refused) {
    let result: unknown
    t.doesNotThrow(() => { result = call() })
    t.ok(result instanceof Promise)
    await t.rejects(result as Promise<void>)
  }
})

t.test('an option that is undefined is left out', async t => {
  const { sse, response } = await open()
  await sse.patchElements('<p>one</p>', { selector: undefined, mode: undefined, useViewTransition: undefined, eventId: undefined, retryDuration: undefined } as object)
  t.equal(response.written, 'event: datastar-patch-elements\ndata: elements <p>one</p>\n\n')
})

t.test('close ends the stream', async t => {
  const { sse, stream } = await open()
  sse.close()
  t.equal(await stream.closed, 'finished')
})

t.test('readSignals returns the signals that the client sent with each verb, `{}` without signals, and a 400 if the signals are not an object', async t => {
  const app = await buildApp(t)
  app.fastify.route({ method: ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'], url: '/signals', handler: async request => readSignals(request) })
  await app.listen()
  const signals = { tabId: 'a', nested: { one: 1 } }
  const ask = async (method: string, path: string, body?: string, type = 'application/json') => {
    const client = await connect(app.url(path), { method, ...body === undefined ? {} : { body, headers: { 'content-type': type } } })
    await client.ended
    return JSON.parse(client.text)
  }
  for (const method of ['GET', 'DELETE']) t.strictSame(await ask(method, withSignals('/signals', signals)), signals)
  for (const method of ['POST', 'PUT', 'PATCH', 'DELETE']) t.strictSame(await ask(method, '/signals', JSON.stringify(signals)), signals)
  t.strictSame(await ask('GET', '/signals'), {})
  t.match(await ask('POST', '/signals', '[1]'), { code: 'FST_ERR_OCTA_STAR_SIGNALS', statusCode: 400 })
})
