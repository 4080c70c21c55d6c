// The text of an event: a browser's parser reads exactly the event that was sent, and no content leaves the event.
import fc from 'fast-check'
import { createParser, type EventSourceMessage } from 'eventsource-parser'
import t from 'tap'
import { formatEvent } from '../lib/event.ts'
import type { StreamMessage } from '../lib/index.ts'
import { seeded } from './kit/seed.ts'

function parse (text: string): EventSourceMessage[] {
  const events: EventSourceMessage[] = []
  const parser = createParser({ onEvent: event => events.push(event) })
  parser.feed(text)
  return events
}

const format = (message: string | StreamMessage) => formatEvent(message, JSON.stringify)

t.test('a string is sent as data unchanged, and any other data is serialized', async t => {
  t.equal(format('a'), 'data: a\n\n')
  t.equal(format({ data: '<li>a</li>' }), 'data: <li>a</li>\n\n')
  t.equal(format({ data: { a: 1 } }), 'data: {"a":1}\n\n')
  t.equal(format({ data: null }), 'data: null\n\n')
  t.equal(format({ id: '7', event: 'order', retry: 500, data: [1] }), 'event: order\nid: 7\nretry: 500\ndata: [1]\n\n')
  t.equal(format({ event: 'ping' }), 'event: ping\ndata:\n\n', 'an event without data is dispatched')
  t.equal(format({ id: '7' }), 'id: 7\n\n')
  t.equal(format({ id: 7, data: '' }), 'id: 7\ndata: \n\n', 'a number as an id')
  t.equal(formatEvent({ data: 1 }, data => `<${String(data)}>`), 'data: <1>\n\n')
})

t.test('CR, LF and CRLF in data end a line of data, and nothing else', async t => {
  t.equal(format('a\rb\nc\r\nd'), 'data: a\ndata: b\ndata: c\ndata: d\n\n')
  t.equal(format('a\r\revent: evil\r\rdata: x'), 'data: a\ndata: \ndata: event: evil\ndata: \ndata: data: x\n\n')
})

t.test('the parser sees one event with the same data, whatever the data is', async t => {
  const hostile = fc.string({ unit: fc.constantFrom('\r', '\n', '\0', '\u2028', '\ud800', ':', ' ', 'data: ', 'event: evil', 'id: 1', 'a', '\u{1f600}') })
  fc.assert(fc.property(fc.oneof(hostile, fc.string({ unit: 'binary' })), fc.option(fc.constantFrom('order', 'a b', ':')), (data, event) => {
    const events = parse(format(event === null ? { data } : { event, data }))
    return events.length === 1 && events[0]!.event === (event ?? undefined) && events[0]!.data === data.replaceAll(/\r\n?/g, '\n')
  }), { ...seeded(import.meta.url), numRuns: 5_000 })
  t.pass()
})

t.test('a field that could not arrive unchanged is refused', async t => {
  const cases: Array<[StreamMessage, RegExp]> = [
    [{ event: 'a\nb' }, /the field 'event' must be a string without CR or LF, got "a\\nb"/],
    [{ event: 'a\rb' }, /'event'/],
    [{ event: 1 as never }, /'event'.*got 1/],
    [{ id: 'a\rdata: x' }, /field 'id'/],
    [{ id: 'a\0' }, /'id'/],
    [{ id: NaN }, /'id'.*got NaN/],
    [{ id: true as never }, /'id'.*got true/],
    [{ id: 'caf\u00e9' }, /'id' must be a number, or a string of printable ASCII characters/],
    [{ id: '\u{1f600}' }, /'id'/],
    [{ id: '\x7f' }, /'id'/],
    [{ id: 'octa-star-closed:replaced' }, /does not begin with 'octa-star-closed'/],
    [{ retry: -1 }, /'retry' must be a whole number of milliseconds/],
    [{ retry: 1.5 }, /'retry'/],
    [{ retry: 2 ** 31 }, /from 0 to 2147483647, got 2147483648/],
    [{ retry: '1\ndata: x' as never }, /'retry'/],
    [{ data: () => {} }, /'data'.*got a function/]
  ]
  for (const [message, expected] of cases) t.throws(() => format(message), { code: 'FST_ERR_OCTA_STAR_EVENT', message: expected })
})

t.test('a message without any field of an event is refused, and the error lists what send takes', async t => {
  for (const [message, shown] of [[42, '42'], [null, 'null'], [undefined, 'undefined'], [true, 'true'], [() => {}, 'a function'], [{}, 'an object'], [['a'], 'an array'], [Buffer.from('a'), 'an instance of Buffer'], [new Map([['data', 1]]), 'an instance of Map']] as const) {
    const expected = `send() takes a string or { event, id, data, retry }, got ${shown}. To send any other value, pass { data: value }`
    t.throws(() => format(message as never), { code: 'FST_ERR_OCTA_STAR_MESSAGE', message: expected })
  }
})
