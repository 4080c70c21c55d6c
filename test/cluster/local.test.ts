// One process is a cluster too.
import t from 'tap'
import { defaults } from '../../lib/options.ts'
import { Registry } from '../../lib/registry/registry.ts'
import { memoryLog } from '../kit/memory-log.ts'
import { clusterConformance } from './conformance.ts'

clusterConformance(t, {
  async build (_t, members) {
    const registry = new Registry(undefined, { ...defaults, onLimit: 'replace-oldest' }, memoryLog().log)
    return Array(members).fill(registry)
  }
})
