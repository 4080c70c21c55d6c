// The numbers and the chart's minute of history, from what the processes report of their streams.
const SAMPLE_MS = 500
const SAMPLES = 120

export class Board {
  deduplicate = true
  #reports
  #isFrozen
  #history = []
  #sampler

  constructor ({ reports, isFrozen }) {
    this.#reports = reports
    this.#isFrozen = isFrozen
    this.#sampler = setInterval(() => {
      this.#history.push(this.#sample())
      if (this.#history.length > SAMPLES) this.#history.shift()
    }, SAMPLE_MS)
  }

  stats () {
    return { deduplicate: this.deduplicate, now: this.#sample(), history: this.#history, size: SAMPLES, places: this.#reports().length }
  }

  close () {
    clearInterval(this.#sampler)
  }

  #sample () {
    const reports = this.#reports()
    const connections = reports.flatMap(report => report.connections)
    const zombies = connections.filter(this.#isFrozen).length
    return { live: connections.length - zombies, zombies, replaced: reports.reduce((sum, { replaced }) => sum + replaced, 0) }
  }
}
