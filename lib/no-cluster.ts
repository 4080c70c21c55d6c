// Stands in for the cluster if the option `cluster` is not set: there is no second process to ask.
import type { Cluster } from '../types/cluster.ts'

export const noCluster: Cluster = {
  claim: () => undefined,
  release () {},
  evict: async () => 0,
  count: async () => 0,
  leave: async () => {}
}
