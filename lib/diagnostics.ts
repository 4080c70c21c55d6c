// What can be observed: diagnostics_channel names and payloads, and a debug line; nothing is built if nobody listens.
import { channel } from 'node:diagnostics_channel'
import type { FastifyBaseLogger } from 'fastify'
import type { CloseReason, Holder, Stream, StreamKey } from '../types/index.ts'

/** `octa-star:stream:open`: the head of a stream was sent. */
export interface StreamOpenEvent {
  stream: Stream
  /** How long it waited for its predecessor. Unit: milliseconds. */
  waited: number
}

/** `octa-star:stream:replace`: a newer stream took the key of a holder, which begins to end. */
export interface StreamReplaceEvent {
  /** The one that ends. */
  stream: Holder
  /** The one that takes the key; `undefined` where it is in another process. */
  by: Holder | undefined
  /** How long the one that ends had held the key. Unit: milliseconds. */
  held: number
}

/** `octa-star:stream:close`: nothing of a stream runs any more. */
export interface StreamCloseEvent {
  stream: Stream
  reason: CloseReason
  /** From its opening to the beginning of its end. Unit: milliseconds. */
  lived: number
  /** From the beginning of its end until its response, its handler and its cleanups were over. Unit: milliseconds. */
  closing: number
}

/** `octa-star:key:flapping`: a key was replaced more than ten times in ten seconds. Once for each such key. */
export interface KeyFlappingEvent {
  key: StreamKey
}

/** `octa-star:cluster`: the store that the processes share cannot be reached, or can be again. */
export interface ClusterEvent {
  state: 'away' | 'back'
}

const channels = {
  open: channel('octa-star:stream:open'),
  replace: channel('octa-star:stream:replace'),
  close: channel('octa-star:stream:close'),
  flapping: channel('octa-star:key:flapping'),
  cluster: channel('octa-star:cluster')
}

export function reportOpen (event: StreamOpenEvent, log: FastifyBaseLogger, route: string): void {
  if (channels.open.hasSubscribers) channels.open.publish(event)
  debug(log, event.stream, { route, waited: event.waited }, 'stream opened')
}

export function reportReplace (stream: Holder, by: Holder | undefined, since: number): void {
  if (!channels.replace.hasSubscribers) return
  const event: StreamReplaceEvent = { stream, by, held: performance.now() - since }
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

export function reportCluster (event: ClusterEvent): void {
  if (channels.cluster.hasSubscribers) channels.cluster.publish(event)
}

function debug (log: FastifyBaseLogger, stream: Stream, details: object, message: string): void {
  // With logging off Fastify's has one function for all levels: no id is made for it.
  if (log.debug === log.fatal) return
  // Pino's; a logger of another make may have none, and decides for itself.
  const { isLevelEnabled } = log as { isLevelEnabled?: (level: string) => boolean }
  if (isLevelEnabled?.call(log, 'debug') === false) return
  log.debug({ streamId: stream.id, tabId: stream.tabId, ...details }, message)
}
