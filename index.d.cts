// The types of index.cjs. `export =` says that `require()` returns the plugin itself. The namespace holds the plugin's properties, and
// every type that lib/index.ts exports.
import type { FastifyInstance } from 'fastify'
import lib = require('./dist/lib/index.js')

declare function octaStarStreams (fastify: FastifyInstance, options: lib.OctaStarStreamsOptions): Promise<void>

declare namespace octaStarStreams {
  export const octaStarStreams: typeof lib.octaStarStreams
  export { octaStarStreams as default }
  export import streamKey = lib.streamKey
  export import CloseReason = lib.CloseReason
  export import Cluster = lib.Cluster
  export import ClusterAdapter = lib.ClusterAdapter
  export import ClusterClaim = lib.ClusterClaim
  export import ClusterContext = lib.ClusterContext
  export import ClusterEvent = lib.ClusterEvent
  export import ClusterMessage = lib.ClusterMessage
  export import Holder = lib.Holder
  export import KeyFlappingEvent = lib.KeyFlappingEvent
  export import MessageSource = lib.MessageSource
  export import MessageTarget = lib.MessageTarget
  export import OctaStarStreamsOptions = lib.OctaStarStreamsOptions
  export import ScopeEvent = lib.ScopeEvent
  export import ScopeKey = lib.ScopeKey
  export import SendOptions = lib.SendOptions
  export import StartStreamOptions = lib.StartStreamOptions
  export import Stream = lib.Stream
  export import StreamCloseEvent = lib.StreamCloseEvent
  export import StreamInfo = lib.StreamInfo
  export import StreamKey = lib.StreamKey
  export import StreamMessage = lib.StreamMessage
  export import StreamOpenEvent = lib.StreamOpenEvent
  export import StreamRegistry = lib.StreamRegistry
  export import StreamReplaceEvent = lib.StreamReplaceEvent
  export import UntypedRequest = lib.UntypedRequest
}

export = octaStarStreams
