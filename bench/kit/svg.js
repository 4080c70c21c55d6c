// Lines over the number of streams, as a picture.
const WIDTH = 720
const PLOT = { left: 56, right: 672, top: 24, bottom: 230 }

/**
 * `series`: a label, and the points of a line, each a number of streams and a value. A series may choose its `color`, and may be `dashed`. The
 * values begin at zero. `one` is a value whose grid line is dashed.
 */
export function plot ({ title, text, one }, series) {
  const height = PLOT.bottom + 70 + series.length * 20
  const numbers = series.flatMap(({ points }) => points.map(([number]) => number))
  const first = Math.floor(Math.log10(Math.min(...numbers)))
  const last = Math.ceil(Math.log10(Math.max(...numbers)))
  const highest = Math.max(1, ...series.flatMap(({ points }) => points.map(([, value]) => value)))
  const step = stepFor(highest)
  const most = Math.ceil(highest / step) * step
  const x = number => round(PLOT.left + (Math.log10(number) - first) / (last - first) * (PLOT.right - PLOT.left))
  const y = value => round(PLOT.bottom - value / most * (PLOT.bottom - PLOT.top))
  const shown = value => most >= 100 ? value.toFixed(0) : value.toFixed(2)

  const parts = []
  for (let i = 0; i * step <= most; i++) {
    const value = Number((i * step).toFixed(3))
    parts.push(`<path class="${value === one ? 'one' : 'grid'}" d="M${PLOT.left} ${y(value)}H${PLOT.right}"/><text x="${PLOT.left - 8}" y="${y(value) + 4}" text-anchor="end">${value}</text>`)
  }
  for (let power = first; power <= last; power++) {
    parts.push(`<text x="${x(10 ** power)}" y="${PLOT.bottom + 18}" text-anchor="middle">${(10 ** power).toLocaleString('en')}</text>`)
  }
  for (const [i, { label, points, color = i, dashed = false }] of series.entries()) {
    const place = PLOT.bottom + 44 + i * 20
    parts.push(`<g class="s${color}${dashed ? ' dashed' : ''}"><path class="line" d="M${points.map(([number, value]) => `${x(number)} ${y(value)}`).join('L')}"/>`)
    parts.push(...points.map(([number, value]) => `<circle cx="${x(number)}" cy="${y(value)}" r="4"><title>${number.toLocaleString('en')}: ${shown(value)}</title></circle>`))
    parts.push(`<path class="line" d="M${PLOT.left} ${place}h28"/><circle cx="${PLOT.left + 14}" cy="${place}" r="4"/></g><text x="${PLOT.left + 38}" y="${place + 4}">${label}: ${points.map(([, value]) => shown(value)).join(', ')}</text>`)
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img" aria-label="${text}">
<style>
text { font: 12px system-ui, sans-serif; fill: #57606a }
.grid { stroke: #8c959f; stroke-opacity: .25 }
.one { stroke: #8c959f; stroke-dasharray: 4 4 }
.line { fill: none; stroke: currentColor; stroke-width: 2 }
.dashed .line { stroke-dasharray: 6 4 }
circle { fill: currentColor }
.s0 { color: #0969da } .s1 { color: #cf222e } .s2 { color: #6e7781 } .s3 { color: #8250df } .s4 { color: #1a7f37 }
@media (prefers-color-scheme: dark) {
  text { fill: #9da7b1 }
  .s0 { color: #58a6ff } .s1 { color: #ff7b72 } .s2 { color: #8b949e } .s3 { color: #bc8cff } .s4 { color: #3fb950 }
}
</style>
<text x="${PLOT.left}" y="14">${title}</text>
${parts.join('\n')}
</svg>
`
}

/** The distance of the grid lines: 1, 2 or 5 times a power of ten, so that there are at most eight lines. */
function stepFor (highest) {
  for (let power = 0.1; ; power *= 10) {
    for (const factor of [1, 2, 5]) if (highest / (power * factor) <= 8) return power * factor
  }
}

const round = number => Math.round(number * 10) / 10
