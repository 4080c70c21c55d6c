// One process is a cluster too.
import t from 'tap'
import { LocalBackend } from '../../lib/backend.ts'
import { alone } from '../../lib/cluster.ts'
import { defaults } from '../../lib/options.ts'
import { Registry } from '../../lib/registry.ts'
import { memoryLog } from '../kit/memory-log.ts'
import { clusterConformance } from './conformance.ts'

clusterConformance(t, {
  async build (_t, members) {
    const registry = new Registry(new LocalBackend(), alone, { ...defaults, onLimit: 'replace-oldest' }, memoryLog().log)
    return Array(members).fill(registry)
  }
})
