// The numbers, and the last minute of them for the chart, computed from the reports of all processes.
const SAMPLE_MS = 500
const SAMPLES = 120

export class Board {
  deduplicate = true
  #isFrozen
  #reports = () => []
  #history = []
  #sampler

  constructor ({ isFrozen }) {
    this.#isFrozen = isFrozen
  }

  /** Starts to take samples. `reports` returns the latest report of each process, so call this once there are processes to ask. */
  start (reports) {
    this.#reports = reports
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
