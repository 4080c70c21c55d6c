// Sends messages to the streams of a scope, or of all scopes, in all processes. Formats each message once.
import { FST_ERR_OCTA_STAR_SEND_OPTION, FST_ERR_OCTA_STAR_TOO_LARGE, show } from '../errors.ts'
import { formatEvent, SharedEvent, type Serializer } from '../event.ts'
import { isReporting, type Claim } from './claim.ts'
import type { Cluster, ClusterMessage } from '../../types/cluster.ts'
import type { SendOptions } from '../../types/index.ts'
import type { Stream, StreamInfo, StreamMessage } from '../../types/stream.ts'

/** The streams that get a message, as in {@link ClusterMessage}. */
export type Audience = Pick<ClusterMessage, 'scope' | 'tabId' | 'name' | 'except'>

/** The streams of this process. */
export interface OwnStreams {
  /** The claims in `scope`, or all claims that took their key. */
  claimsIn (scope: string | undefined): Iterable<Claim>
  /** The open streams in `scope`. */
  streamsIn (scope: string): Stream[]
}

export class Reach {
  readonly #own: OwnStreams
  readonly #serialize: Serializer

  constructor (own: OwnStreams, serialize: Serializer = JSON.stringify) {
    this.#own = own
    this.#serialize = serialize
  }

  /** Returns the number of streams that took the message, and with a cluster a promise for that number. `audience` is `undefined` for a message to nobody. */
  send (cluster: Cluster | undefined, audience: Audience | undefined, message: string | StreamMessage): number | Promise<number> {
    const text = formatEvent(message, this.#serialize)
    if (audience === undefined) return 0
    const retry = typeof message === 'object' ? message.retry : undefined
    if (cluster !== undefined) checkLength(text, cluster)
    const { scope, tabId, name, except } = audience
    // A spread would give messages different shapes, and `deliver` would take a fifth longer.
    const delivery = { scope, tabId, name, except, text, retry }
    const own = this.deliver(delivery)
    return cluster === undefined ? own : cluster.send(delivery).then(others => own + others)
  }

  /** Sends a message to the streams of this process. Returns the number of streams that took the message. */
  deliver ({ scope, tabId, name, except, text, retry }: ClusterMessage): number {
    const event = new SharedEvent(text, retry)
    let taken = 0
    for (const { key, holder } of this.#own.claimsIn(scope)) {
      if (tabId !== undefined && key.tabId !== tabId) continue
      if (name !== undefined && key.name !== name) continue
      if (except !== undefined && key.tabId === except) continue
      if (isReporting(holder) && holder.push(event)) taken++
    }
    return taken
  }

  /** What other processes may know of the streams in `scope`. */
  list (scope: string): StreamInfo[] {
    return this.#own.streamsIn(scope).map(({ id, tabId, name, openedAt }) => ({ id, tabId, name, openedAt }))
  }
}

function checkLength (text: string, { maxMessageBytes }: Cluster): void {
  const length = Buffer.byteLength(text)
  if (length > maxMessageBytes) throw new FST_ERR_OCTA_STAR_TOO_LARGE(maxMessageBytes, length)
}

const SEND_OPTIONS = ['tabId', 'name', 'except'] satisfies Array<keyof SendOptions>

/**
 * The streams of `scope` that `options` name. `undefined` if the options name no stream.
 *
 * @throws FST_ERR_OCTA_STAR_SEND_OPTION
 */
export function audienceOf (scope: string, options: SendOptions | undefined): Audience | undefined {
  if (options === undefined) return { scope }
  if (!isPlain(options)) throw new FST_ERR_OCTA_STAR_SEND_OPTION('options', `a plain object with ${SEND_OPTIONS.join(', ')}`, show(options))
  for (const [option, value] of Object.entries(options)) {
    // A misspelt option would send a message to every tab.
    if (!(SEND_OPTIONS as string[]).includes(option)) throw new FST_ERR_OCTA_STAR_SEND_OPTION(option, `one of ${SEND_OPTIONS.join(', ')}`, show(value))
    if (value !== undefined && typeof value !== 'string') throw new FST_ERR_OCTA_STAR_SEND_OPTION(option, 'a string', show(value))
  }
  const { tabId, name, except } = options
  // A request without a tab id has no tab to answer to.
  if (tabId === undefined && Object.hasOwn(options, 'tabId')) return undefined
  return { scope, tabId, name, except }
}

// A Map or an array has none of the options, and would send a message to every tab.
function isPlain (options: unknown): boolean {
  if (typeof options !== 'object' || options === null) return false
  const prototype = Object.getPrototypeOf(options)
  return prototype === Object.prototype || prototype === null
}
