// Rows as a Markdown table.
const COLUMNS = {
  what: ({ what }) => what,
  against: ({ against }) => against,
  'measured (quartiles)': row => `${shown(row, row.measured)} (${shown(row, row.low)} to ${shown(row, row.high)})`,
  pairs: ({ pairs }) => String(pairs),
  'must reach': row => Object.entries(row.limit).map(([name, value]) => `${SIGNS[name]} ${shown(row, value)}`).join(''),
  'does it': ({ limit, reached }) => Object.keys(limit).length === 0 ? '' : reached ? 'yes' : '**no**',
  note: ({ note }) => note
}
const SIGNS = { atLeast: '>=', atMost: '<=', above: '>', below: '<' }

function shown ({ unit }, value) {
  return unit === '' ? String(value) : `${value.toFixed(2)} ${unit}`
}

export function table (rows) {
  return markdown([Object.keys(COLUMNS), ...rows.map(row => Object.values(COLUMNS).map(cell => cell(row)))])
}

/** A table whose columns are aligned, so that the source is legible too. The first line of cells is the heading. */
export function markdown (cells) {
  const widths = cells[0].map((_, column) => Math.max(...cells.map(line => line[column].length)))
  const lines = cells.map(line => `| ${line.map((cell, column) => cell.padEnd(widths[column])).join(' | ')} |`)
  return [lines[0], `| ${widths.map(width => '-'.repeat(width)).join(' | ')} |`, ...lines.slice(1)].join('\n')
}
