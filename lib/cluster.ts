// The cluster of one process: there are no others to ask.
import type { Cluster } from '../types/index.ts'

export const alone: Cluster = {
  claim: () => undefined,
  release () {},
  evict: async () => 0,
  count: async () => 0,
  leave: async () => {}
}
