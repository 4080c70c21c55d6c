// The published tests of the contract `Cluster`, as tests of tap.
import type { Test } from 'tap'
import { testCluster, type ClusterTestOptions } from '../../lib/conformance.ts'
import type { ClusterAdapter } from '../../lib/index.ts'

export async function conformance<Adapter extends ClusterAdapter> (t: Test, options: Omit<ClusterTestOptions<Adapter>, 'test'>): Promise<void> {
  await testCluster({
    ...options,
    test: (title, run) => t.test(title, async t => {
      await run()
      t.pass('no assertion failed')
    })
  })
}
