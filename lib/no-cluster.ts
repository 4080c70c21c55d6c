// The cluster of a process that is alone: there are no other processes to ask.
import type { Cluster } from '../types/cluster.ts'

export const noCluster: Cluster = {
  claim: () => undefined,
  release () {},
  evict: async () => 0,
  count: async () => 0,
  leave: async () => {}
}
