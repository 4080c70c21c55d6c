// The picture of the README shows what its script measures: without the plugin every closed page leaves a zombie, with the plugin no page does.
import t from 'tap'
import './kit/build.js'
import { read } from './kit/document.ts'
import { run } from './kit/run.ts'

interface Run { loads: number[], streams: Array<{ page: number, opened: number, ending?: number, gone?: number }> }

const { stdout } = await run(process.execPath, ['scripts/draw-streams.js', '--json'])
const { runs, svg } = JSON.parse(stdout) as { runs: Record<'without' | 'with', Run>, svg: string }

t.test('without the plugin the streams of all pages run at the end', async t => {
  const { loads, streams } = runs.without
  t.equal(loads.length, 5)
  t.strictSame(streams.map(({ page, gone }) => [page, gone]), loads.map((_, i) => [i + 1, undefined]))
})

t.test('with the plugin each stream ends and is cleaned up before the next stream opens, and only the last stream runs at the end', async t => {
  const { loads, streams } = runs.with
  t.strictSame(streams.map(({ page }) => page), loads.map((_, i) => i + 1))
  t.strictSame(streams.filter(({ gone }) => gone === undefined).map(({ page }) => page), [loads.length])
  for (const [i, next] of streams.slice(1).entries()) {
    const { page, ending, gone } = streams[i]!
    t.ok(loads[i + 1]! <= ending! && ending! < gone! && gone! <= next.opened, `page ${page}`)
  }
})

t.test('the picture says both numbers, in words and for a screen reader', async t => {
  for (const text of ['>at the end: 5 streams, 4 zombies<', '>at the end: 1 stream, no zombies<', 'Without the plugin, 4 zombies', 'With the plugin, no zombies']) t.match(svg, text)
})

t.test('docs/streams.svg was drawn by the present script: only the numbers differ', async t => {
  // A slow run is longer, and its time axis has more marks.
  const structure = (text: string) => text.split('\n').filter(line => !line.includes('class="axis"')).map(line => line.replaceAll(/-?\d*\.?\d+/g, '#'))
  t.strictSame(structure(read('docs/streams.svg')), structure(svg), 'if not, run npm run draw')
})
