// The types of index.cjs. `export =` says that `require()` returns the plugin itself. The namespace holds the plugin's properties, and
// every type that lib/index.ts exports.
import type { FastifyInstance } from 'fastify'
import lib = require('./dist/lib/index.js')

declare function octaStarStreams (fastify: FastifyInstance, options: lib.OctaStarStreamsOptions): Promise<void>

declare namespace octaStarStreams {
  export const octaStarStreams: typeof lib.octaStarStreams
  export { octaStarStreams as default }
  export const streamKey: typeof lib.streamKey
  export type CloseReason = lib.CloseReason
  export type Cluster = lib.Cluster
  export type ClusterAdapter = lib.ClusterAdapter
  export type ClusterClaim = lib.ClusterClaim
  export type ClusterContext = lib.ClusterContext
  export type ClusterEvent = lib.ClusterEvent
  export type ClusterMessage = lib.ClusterMessage
  export type Holder = lib.Holder
  export type KeyFlappingEvent = lib.KeyFlappingEvent
  export type MessageSource = lib.MessageSource
  export type MessageTarget = lib.MessageTarget
  export type OctaStarStreamsOptions = lib.OctaStarStreamsOptions
  export type ScopeEvent = lib.ScopeEvent
  export type ScopeKey = lib.ScopeKey
  export type ScopeKeyLike<T> = lib.ScopeKeyLike<T>
  export type SendAllOptions = lib.SendAllOptions
  export type SendOptions = lib.SendOptions
  export type StartStreamOptions = lib.StartStreamOptions
  export type Stream = lib.Stream
  export type StreamCloseEvent = lib.StreamCloseEvent
  export type StreamInfo = lib.StreamInfo
  export type StreamKey = lib.StreamKey
  export type StreamMessage = lib.StreamMessage
  export type StreamOpenEvent = lib.StreamOpenEvent
  export type StreamRegistry = lib.StreamRegistry
  export type StreamReplaceEvent = lib.StreamReplaceEvent
  export type UntypedRequest = lib.UntypedRequest
}

export = octaStarStreams
