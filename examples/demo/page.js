// The demo's page: the stream, the buttons, the numbers and the chart.
/* global EventSource, history, location */
import { tabId } from '/octa-star/tab-id.js'

const PAGES = { '/': 'Orders', '/map': 'Map', '/chat': 'Chat' }
const paths = Object.keys(PAGES)
const here = location.pathname
const next = paths[(paths.indexOf(here) + 1) % paths.length]
const $ = id => document.getElementById(id)
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))

document.querySelector(`nav a[href="${here}"]`).setAttribute('aria-current', 'page')
$('title').textContent = `This page: ${PAGES[here]}`
$('next').href = next
$('next').textContent = `Go to ${PAGES[next]}`

// The stream.

let lastTick = Date.now()
let replaced = false
let place
const source = new EventSource(`/stream${here === '/' ? '/orders' : here}?tab=${tabId()}`)
source.addEventListener('open', () => { lastTick = Date.now() })
source.addEventListener('tick', ({ data }) => {
  lastTick = Date.now()
  const tick = JSON.parse(data)
  place = tick.place
  show(tick)
})
source.addEventListener('octa-star-closed', () => {
  source.close()
  replaced = true
})

function show ({ n, at }) {
  const time = new Date(at).toLocaleTimeString()
  if (here === '/map') {
    const [x, y] = [50 + 38 * Math.cos(n / 2), 50 + 34 * Math.sin(n / 1.3)]
    $('content').innerHTML ||= '<svg viewBox="0 0 100 100" preserveAspectRatio="xMidYMid meet"><circle r="5" cx="50" cy="50"></circle></svg>'
    const circle = $('content').querySelector('circle')
    circle.setAttribute('cx', x)
    circle.setAttribute('cy', y)
    return
  }
  $('content').innerHTML ||= '<ol></ol>'
  const item = document.createElement('li')
  item.append(...(here === '/chat' ? [`Visitor ${n % 3 + 1}: message ${n}`, time] : [`Order no. ${1000 + n}`, time]).map(text => Object.assign(document.createElement('span'), { textContent: text })))
  $('content').firstChild.prepend(item)
  while ($('content').firstChild.children.length > 4) $('content').firstChild.lastChild.remove()
}

function showStatus () {
  const silent = Math.round((Date.now() - lastTick) / 1000)
  const dead = !replaced && source.readyState === EventSource.OPEN && silent >= 3
  $('status').className = `status ${replaced || dead ? 'dead' : source.readyState === EventSource.OPEN ? 'open' : ''}`
  $('status').textContent = replaced
    ? 'Replaced by a newer stream of this tab'
    : dead
      ? `Silent for ${silent} s, yet neither side has noticed`
      : source.readyState === EventSource.OPEN ? `Streaming${place === undefined ? '' : ` from ${place}`}` : 'Connecting'
}

// The buttons.

async function command (path, body = {}) {
  await fetch(path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body), signal: AbortSignal.timeout(2000) }).catch(() => {})
}

$('pull').addEventListener('click', () => command('/cable'))
$('deduplicate').addEventListener('change', ({ target }) => command('/deduplicate', { on: target.checked }))
$('repeat').addEventListener('click', () => repeat(5))

// Each page hands the count to the next page in the address. The next page removes the count from the address at once, so a
// duplicated tab, a reload or the Back button does not continue the run.
async function repeat (left) {
  if (left === 0) return
  $('repeat').disabled = true
  $('repeat').textContent = `${left} to go`
  await sleep(1300)
  await command('/cable')
  await sleep(500)
  location.href = `${next}#${left - 1}`
}
const left = Number(location.hash.slice(1)) || 0
history.replaceState(null, '', here)
repeat(left)

// The numbers and the chart.

const W = 600
const H = 180

function draw ({ deduplicate, now, history, size, places }) {
  if (places > 1) {
    $('about').textContent = `Behind the page are ${places} processes that share one Redis, and a TCP proxy that hands each new connection to the next process. ` +
      'The button makes the proxy freeze the open connections without telling either side. New connections pass.'
  }
  for (const name of ['live', 'zombies', 'replaced']) $(name).textContent = now[name]
  $('zombies').classList.toggle('some', now.zombies > 0)
  $('deduplicate').checked = deduplicate

  const samples = [...history, now]
  const top = Math.max(6, ...samples.map(({ live, zombies }) => live + zombies + 1))
  const x = index => W - (samples.length - 1 - index) * W / size
  const y = value => H - value * H / top
  const line = value => samples.map((sample, index) => `${x(index).toFixed(1)},${y(value(sample)).toFixed(1)}`)
  const zombies = line(sample => sample.zombies)
  const all = line(sample => sample.zombies + sample.live)
  const area = (upper, lower) => `M${upper.join('L')}L${lower.toReversed().join('L')}Z`
  const floor = [`${x(0)},${H}`, `${W},${H}`]
  const step = Math.ceil(top / 5)
  const grid = Array.from({ length: Math.floor(top / step) + 1 }, (_, i) => i * step)
  const marks = samples.flatMap((sample, index) => index > 0 && sample.replaced > samples[index - 1].replaced ? [x(index)] : [])

  $('scale').innerHTML = grid.map(value => `<span style="bottom: ${100 * value / top}%">${value}</span>`).join('')
  $('chart').innerHTML =
    grid.map(value => `<line class="grid" x1="0" x2="${W}" y1="${y(value)}" y2="${y(value)}"/>`).join('') +
    marks.map(at => `<line class="replaced" x1="${at}" x2="${at}" y1="0" y2="${H}"/>`).join('') +
    `<path class="live" d="${area(all, zombies)}"/>` +
    (samples.some(sample => sample.zombies > 0) ? `<path class="zombies" d="${area(zombies, floor)}"/>` : '')
}

async function poll () {
  for (;;) {
    showStatus()
    // A request that froze with the cable times out. The next request opens a new connection.
    await fetch('/stats', { signal: AbortSignal.timeout(1500) }).then(response => response.json()).then(draw).catch(() => {})
    await sleep(400)
  }
}
poll()
