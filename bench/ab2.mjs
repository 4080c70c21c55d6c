// scratch: A/B of servers
import { inTurn, median } from './kit/pairs.js'
import { startServer } from './kit/processes.js'
import { streamPath, throughput, Wire } from './kit/wire.js'
const [,, rounds = '8', routes = 'close,later', starts = '2'] = process.argv
const all = {}
for (let s = 0; s < +starts; s++) {
  const servers = []; const contestants = {}
  for (const [label, file] of [['new', 'octa'], ['old', '../../../../tmp/w/perf/old/bench/servers/octa'], ['bare', 'bare']]) {
    const server = await startServer(file)
    servers.push(server)
    const wires = await Wire.connect(server.port, 32)
    servers.push({ close: () => wires.forEach(w => w.leave()) })
    for (const route of [...routes.split(','), ...label === 'bare' ? ['ordinary', 'ordinary-later'] : []]) {
      const measure = time => throughput(server, wires, () => streamPath(route), time)
      await measure(1000)
      contestants[`${label} ${route}`] = () => measure(300)
    }
  }
  const r = await inTurn(contestants, +rounds)
  for (const [k, v] of Object.entries(r)) (all[k] ??= []).push(...v)
  for (const s of servers.reverse()) await s.close()
}
for (const [k, v] of Object.entries(all)) console.log(k.padEnd(14), Object.keys(v[0]).map(f => `${f} ${median(v.map(x => x[f])).toFixed(0)}`).join('  '))
