// The scaling rows as a picture: how the time of a call grows with the number of streams. Each line is relative to its first point.
const WIDTH = 720
const HEIGHT = 380
const PLOT = { left: 48, right: 672, top: 24, bottom: 230 }

/** `series`: a label, and the points of a line, each a number of streams and a ratio. */
export function scalingPlot (series) {
  const numbers = series.flatMap(({ points }) => points.map(([number]) => number))
  const first = Math.floor(Math.log10(Math.min(...numbers)))
  const last = Math.ceil(Math.log10(Math.max(...numbers)))
  const most = Math.ceil(Math.max(1.5, ...series.flatMap(({ points }) => points.map(([, ratio]) => ratio))) * 2) / 2
  const x = number => round(PLOT.left + (Math.log10(number) - first) / (last - first) * (PLOT.right - PLOT.left))
  const y = ratio => round(PLOT.bottom - ratio / most * (PLOT.bottom - PLOT.top))

  const parts = []
  for (let ratio = 0; ratio <= most; ratio += 0.5) {
    parts.push(`<path class="${ratio === 1 ? 'one' : 'grid'}" d="M${PLOT.left} ${y(ratio)}H${PLOT.right}"/><text x="${PLOT.left - 8}" y="${y(ratio) + 4}" text-anchor="end">${ratio}</text>`)
  }
  for (let power = first; power <= last; power++) {
    parts.push(`<text x="${x(10 ** power)}" y="${PLOT.bottom + 18}" text-anchor="middle">${(10 ** power).toLocaleString('en')}</text>`)
  }
  for (const [i, { label, points }] of series.entries()) {
    const place = PLOT.bottom + 44 + i * 20
    parts.push(`<g class="s${i}"><path class="line" d="M${points.map(([number, ratio]) => `${x(number)} ${y(ratio)}`).join('L')}"/>`)
    parts.push(...points.map(([number, ratio]) => `<circle cx="${x(number)}" cy="${y(ratio)}" r="4"><title>${number.toLocaleString('en')}: ${ratio.toFixed(2)}</title></circle>`))
    parts.push(`<path class="line" d="M${PLOT.left} ${place}h28"/><circle cx="${PLOT.left + 14}" cy="${place}" r="4"/></g><text x="${PLOT.left + 38}" y="${place + 4}">${label}: ${points.map(([, ratio]) => ratio.toFixed(2)).join(', ')}</text>`)
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}" role="img" aria-label="How much longer a call takes with more streams">
<style>
text { font: 12px system-ui, sans-serif; fill: #57606a }
.grid { stroke: #8c959f; stroke-opacity: .25 }
.one { stroke: #8c959f; stroke-dasharray: 4 4 }
.line { fill: none; stroke: currentColor; stroke-width: 2 }
circle { fill: currentColor }
.s0 { color: #0969da } .s1 { color: #cf222e } .s2 { color: #6e7781 } .s3 { color: #8250df } .s4 { color: #1a7f37 }
@media (prefers-color-scheme: dark) {
  text { fill: #9da7b1 }
  .s0 { color: #58a6ff } .s1 { color: #ff7b72 } .s2 { color: #8b949e } .s3 { color: #bc8cff } .s4 { color: #3fb950 }
}
</style>
<text x="${PLOT.left}" y="14">Time of one call, as a multiple of its time with the fewest streams</text>
${parts.join('\n')}
</svg>
`
}

const round = number => Math.round(number * 10) / 10
