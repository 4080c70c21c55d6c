// Draws docs/streams.svg from a real run, so that the picture of the README shows what the servers did: npm run draw [-- --json]
// A tab loads five pages, and each page opens a stream. At each navigation the connection of the old page freezes, as after a change of network,
// so the server cannot notice that the old page is gone. One server is bare @fastify/sse, the other server has the plugin. With --json the
// script prints the measurements and the picture, and writes no file.
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import http from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import { fastifySSE } from '@fastify/sse'
import octaStarStreams from 'octa-star-streams'
import { createProxy } from '../examples/demo/proxy.js'

const PAGES = 5
/** The milliseconds that a page stays, and that the last page is watched. */
const STAY = 300
const LAST = 800
/** The milliseconds that a stream's cleanup takes, for example to unsubscribe. Long enough to be seen in the picture. */
const CLEANUP = 40

// Both servers send the time ten times a second, and clean up when they learn of the end of a stream.
async function bare () {
  const fastify = Fastify({ forceCloseConnections: true })
  await fastify.register(fastifySSE)
  fastify.get('/', { sse: 'only' }, async (request, reply) => {
    const stream = note(request)
    reply.sse.keepAlive()
    const timer = setInterval(() => reply.sse.send({ data: new Date().toISOString() }).catch(() => {}), 100)
    reply.sse.onClose(async () => {
      clearInterval(timer)
      await cleanUp(stream)
    })
    await reply.sse.send({ data: 'open' })
  })
  return fastify
}

async function withPlugin () {
  const fastify = Fastify({ forceCloseConnections: true })
  await fastify.register(octaStarStreams, { tabId: () => 'tab' })
  fastify.get('/', { sse: 'only' }, async (request, reply) => {
    const live = await reply.startStream('ann')
    const stream = note(request)
    live.onClose(() => cleanUp(stream))
    await live.send('open')
    for (;;) {
      await sleep(100, undefined, { signal: live.signal })
      await live.send(new Date().toISOString())
    }
  })
  return fastify
}

// What a server knows of its streams: when a stream opened, when its end began, and when its cleanup was done.
const streamsOf = new Map()

function note (request) {
  const stream = { page: Number(request.query.page), opened: performance.now() }
  streamsOf.get(request.server).push(stream)
  return stream
}

async function cleanUp (stream) {
  stream.ending = performance.now()
  await sleep(CLEANUP)
  stream.gone = performance.now()
}

/** Loads the pages one after the other. Times are in milliseconds since the first page. */
async function run (fastify) {
  const streams = []
  streamsOf.set(fastify, streams)
  await fastify.listen({ port: 0, host: '127.0.0.1' })
  const proxy = createProxy()
  const port = await proxy.listen({ port: 0, to: [fastify.server.address().port] })
  const requests = []
  const loads = []
  for (let page = 1; page <= PAGES; page++) {
    proxy.pullCable()
    loads.push(performance.now())
    const request = http.get({ port, host: '127.0.0.1', path: `/?page=${page}`, agent: false, headers: { accept: 'text/event-stream' } })
    request.on('error', () => {})
    requests.push(request)
    const [response] = await once(request, 'response')
    await once(response.on('error', () => {}), 'data')
    await sleep(loads.at(-1) + (page < PAGES ? STAY : LAST) - performance.now())
  }
  const [start] = loads
  const end = performance.now()
  const since = time => time === undefined ? undefined : Math.round(time - start)
  const result = {
    end: since(end),
    loads: loads.map(since),
    // A stream whose end came later than the last moment of the run was alive at that moment.
    streams: streams.map(({ page, opened, ending, gone }) => ({ page, opened: since(opened), ending: since(ending), gone: since(gone) }))
  }
  for (const request of requests) request.destroy()
  proxy.close()
  await fastify.close()
  return result
}

const runs = { without: await run(await bare()), with: await run(await withPlugin()) }
const svg = draw(runs)
if (process.argv.includes('--json')) console.log(JSON.stringify({ runs, svg }))
else writeFileSync(new URL('../docs/streams.svg', import.meta.url), svg)

/** The streams of pages that are gone, and that still run at the end. */
function zombiesOf ({ streams }) {
  return streams.filter(({ page, gone }) => page < PAGES && gone === undefined)
}

function draw ({ without, with: withIt }) {
  const WIDTH = 800
  const LEFT = 96
  const RIGHT = 752
  const BAR = 16
  const ROW = 24
  const SECOND = 60 + PAGES * ROW
  const AXIS = 2 * SECOND + 12
  const HEIGHT = AXIS + 106
  const end = Math.max(without.end, withIt.end)
  const x = time => Math.round((LEFT + time / end * (RIGHT - LEFT)) * 10) / 10

  /** A part of a stream's bar. A bar that ends in an arrow goes on after the last moment of the picture. */
  function bar (kind, from, to, y, goesOn = false) {
    return `<path class="${kind}" d="M${x(from)} ${y}H${x(to)}${goesOn ? `l8 ${BAR / 2}l-8 ${BAR / 2}` : `v${BAR}`}H${x(from)}z"/>`
  }

  function group (title, { loads, streams }, top) {
    const zombies = zombiesOf({ streams }).length
    const live = streams.filter(({ gone }) => gone === undefined).length
    const lines = loads.map(time => `<path class="grid" d="M${x(time)} ${top + 28}V${top + 34 + PAGES * ROW}"/>`)
    const parts = [...lines, `<text class="title" x="24" y="${top + 16}">${title}</text>`,
      `<text class="${zombies > 0 ? 'bad' : 'good'}" x="${RIGHT + 8}" y="${top + 16}" text-anchor="end">at the end: ${count(live, 'stream')}, ${count(zombies, 'zombie')}</text>`]
    for (let page = 1; page <= PAGES; page++) {
      const y = top + 34 + (page - 1) * ROW
      const { opened, ending, gone } = streams.find(stream => stream.page === page)
      const left = loads[page] ?? end
      parts.push(`<text x="24" y="${y + 12.5}">page ${page}</text>`)
      parts.push(bar('live', opened, ending ?? left, y, page === PAGES))
      if (gone !== undefined) parts.push(bar('cleanup', ending, gone, y))
      else if (page < PAGES) parts.push(bar('zombie', left, end, y, true))
    }
    return parts
  }

  const ticks = []
  for (let time = 0; time <= end; time += 500) {
    ticks.push(`<path class="axis" d="M${x(time)} ${AXIS}v5"/><text x="${x(time)}" y="${AXIS + 20}" text-anchor="middle">${time / 1000} s</text>`)
  }
  const legend = [['live', 24, 'the page is open'], ['zombie', 184, 'zombie: the page is gone, but its stream runs on'], ['cleanup', 540, 'cleanup before the next stream']]
    .map(([kind, left, label]) => `<rect class="${kind}" x="${left}" y="${AXIS + 42}" width="18" height="14"/><text x="${left + 26}" y="${AXIS + 53.5}">${label}</text>`)
  legend.push(`<path class="grid" d="M33 ${AXIS + 66}v20"/><text x="50" y="${AXIS + 80.5}">the tab goes to the next page, and the network loses the old connection without a sign to the server</text>`)

  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}" role="img" aria-labelledby="title desc">
<title id="title">Streams of one tab, without and with the plugin</title>
<desc id="desc">Time runs to the right, and each bar is a stream. A tab loads ${PAGES} pages. At each navigation the network loses the connection of the old page without a sign to the server. Without the plugin, ${count(zombiesOf(without).length, 'zombie')} at the end: the pages are gone, but the streams run on. With the plugin, ${count(zombiesOf(withIt).length, 'zombie')}: each stream ends when the next page asks for a stream, and the next stream starts after the cleanup. Measured by scripts/draw-streams.js.</desc>
<style>
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #57606a }
.title { font-weight: 600; font-size: 15px; fill: #1f2328 }
.bad { font-weight: 600; fill: #cf222e } .good { font-weight: 600; fill: #1a7f37 }
.paper { fill: #fff; stroke: #d0d7de }
.grid { stroke: #8c959f; stroke-opacity: .7; stroke-dasharray: 2 3 }
.axis { stroke: #8c959f }
.live { fill: #0969da } .zombie { fill: #cf222e } .cleanup { fill: #8c959f }
@media (prefers-color-scheme: dark) {
  text { fill: #9da7b1 }
  .title { fill: #f0f6fc }
  .bad { fill: #ff7b72 } .good { fill: #3fb950 }
  .paper { fill: #0d1117; stroke: #3d444d }
  .live { fill: #388bfd } .zombie { fill: #f85149 } .cleanup { fill: #7d8590 }
}
</style>
<rect class="paper" x=".5" y=".5" width="${WIDTH - 1}" height="${HEIGHT - 1}" rx="8"/>
${group('Without the plugin', without, 20).join('\n')}
${group('With the plugin', withIt, 20 + SECOND).join('\n')}
<path class="axis" d="M${LEFT} ${AXIS}H${RIGHT}"/>
${ticks.join('\n')}
${legend.join('\n')}
</svg>
`
}

function count (number, noun) {
  return `${number === 0 ? 'no' : number} ${noun}${number === 1 ? '' : 's'}`
}
