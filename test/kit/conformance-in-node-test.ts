// A test file for node:test as the author of an adapter would write the file: runs the published tests at the top level, and within a test.
import { test } from 'node:test'
import { testCluster } from '../../lib/conformance.ts'
import { disconnect, memoryCluster, MemoryStore } from './memory-cluster.ts'

function build () {
  const store = new MemoryStore()
  return { adapter: () => memoryCluster(store) }
}

testCluster({ test, build })

test('within a test', async t => {
  await testCluster({ test: (title, run) => t.test(title, run), build, disconnect })
})
