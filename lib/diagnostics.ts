// Everything that can be observed: the diagnostics channels with their events, and debug log lines. Without listeners no event
// is built.
import { channel } from 'node:diagnostics_channel'
import type { FastifyBaseLogger } from 'fastify'
import type { CloseReason, Holder, ScopeKey, Stream, StreamKey } from '../types/stream.ts'

/** Published on `octa-star:stream:open` when the head of a stream was sent. */
export interface StreamOpenEvent {
  stream: Stream
  /** From the call of `startStream` until the stream opened. Unit: milliseconds. */
  waited: number
}

/** Published on `octa-star:stream:replace` when a newer holder takes the key of a holder, which now begins to end. */
export interface StreamReplaceEvent {
  /** The holder that ends. */
  holder: Holder
  /** The holder that takes the key, or `undefined` if that holder is in another process. */
  by: Holder | undefined
  /** How long ago the ending holder claimed the key. Unit: milliseconds. */
  held: number
}

/** Published on `octa-star:stream:close` when a stream that was opened is gone. */
export interface StreamCloseEvent {
  stream: Stream
  reason: CloseReason
  /** The error that the handler threw, unless that error only says that the stream had ended. */
  error: unknown
  /** From the stream's opening until the stream began to end. Unit: milliseconds. */
  lived: number
  /** From the beginning of the end until the response, the handler and the cleanups had finished. Unit: milliseconds. */
  closing: number
}

/**
 * Published on `octa-star:key:flapping` when a key was replaced more than ten times in ten seconds. Published once, and again
 * only after the key was free in between.
 */
export interface KeyFlappingEvent {
  key: StreamKey
}

/**
 * Published on `octa-star:scope:online` when the first stream of a scope opens, and on `octa-star:scope:offline` when a scope
 * has had no stream for `offlineDelay`. In a cluster: the first and the last stream of all processes. One process publishes the
 * event, in general the process of that stream. Around an outage of the cluster's store an event may come twice. Streams are counted
 * from the moment at which somebody subscribes: subscribe in every process, before the server listens.
 */
export interface ScopeEvent {
  scopeKey: ScopeKey
}

/** Published on `octa-star:cluster` when the store that the processes share, or a node of the store, becomes unreachable, or reachable again. */
export interface ClusterEvent {
  state: 'away' | 'back'
  /** The address of the node, such as `10.0.0.3:6379`. `undefined` if the store has a single node. */
  node: string | undefined
}

const channels = {
  open: channel('octa-star:stream:open'),
  replace: channel('octa-star:stream:replace'),
  close: channel('octa-star:stream:close'),
  flapping: channel('octa-star:key:flapping'),
  online: channel('octa-star:scope:online'),
  offline: channel('octa-star:scope:offline'),
  cluster: channel('octa-star:cluster')
}

export function reportOpen (event: StreamOpenEvent, log: FastifyBaseLogger, route: string): void {
  if (channels.open.hasSubscribers) channels.open.publish(event)
  debug(log, event.stream, { route, waited: event.waited }, 'stream opened')
}

export function reportReplace (holder: Holder, by: Holder | undefined, since: number): void {
  if (!channels.replace.hasSubscribers) return
  const event: StreamReplaceEvent = { holder, by, held: performance.now() - since }
  channels.replace.publish(event)
}

export function reportClose (event: StreamCloseEvent, log: FastifyBaseLogger, route: string): void {
  if (channels.close.hasSubscribers) channels.close.publish(event)
  const { reason, lived, closing } = event
  debug(log, event.stream, { route, reason, lived, closing }, 'stream closed')
}

export function reportFlapping (event: KeyFlappingEvent): void {
  if (channels.flapping.hasSubscribers) channels.flapping.publish(event)
}

export function isPresenceObserved (): boolean {
  return channels.online.hasSubscribers || channels.offline.hasSubscribers
}

export function reportOnline (event: ScopeEvent): void {
  channels.online.publish(event)
}

export function reportOffline (event: ScopeEvent): void {
  channels.offline.publish(event)
}

export function reportCluster (event: ClusterEvent): void {
  if (channels.cluster.hasSubscribers) channels.cluster.publish(event)
}

function debug (log: FastifyBaseLogger, stream: Stream, details: object, message: string): void {
  // Fastify's disabled logger uses the same function for all levels (abstract-logging) and needs no stream id.
  if (log.debug === log.fatal) return
  // A logger without Pino's isLevelEnabled decides for itself.
  const { isLevelEnabled } = log as { isLevelEnabled?: (level: string) => boolean }
  if (isLevelEnabled?.call(log, 'debug') === false) return
  log.debug({ streamId: stream.id, tabId: stream.tabId, ...details }, message)
}
