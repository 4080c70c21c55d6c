// The options: frozen defaults, and the checks at registration.
import type { FastifyBaseLogger } from 'fastify'
import { FST_ERR_OCTA_STAR_OPTION, show } from './errors.ts'
import type { ClusterAdapter } from '../types/cluster.ts'
import type { OctaStarStreamsOptions } from '../types/index.ts'

export const defaults = Object.freeze({
  signal: 'tabId',
  tabId: undefined,
  replaceTimeout: 5_000,
  closeGrace: 1_000,
  maxAge: Infinity,
  maxBufferedBytes: 1_048_576,
  stallTimeout: 30_000,
  deadPeerProbe: 10_000,
  maxStreamsPerScope: Infinity,
  onLimit: 'replace-oldest',
  offlineDelay: 5_000,
  browser: undefined,
  cluster: undefined,
  sse: undefined
})

type WithoutDefault = 'tabId' | 'browser' | 'cluster' | 'sse'
export type ResolvedOptions = Required<Omit<OctaStarStreamsOptions, WithoutDefault>> & Pick<OctaStarStreamsOptions, WithoutDefault>

// setTimeout treats a larger delay as 1 ms: https://nodejs.org/api/timers.html#settimeoutcallback-delay-args
const MAX_DELAY = 2 ** 31 - 1

const expected: Record<keyof typeof defaults, [test: (value: unknown) => boolean, description: string]> = {
  signal: [value => typeof value === 'string' && value !== '', 'a non-empty string'],
  tabId: [value => value === undefined || typeof value === 'function', 'a function'],
  replaceTimeout: [isDelay, `a number of milliseconds from 1 to ${MAX_DELAY}`],
  closeGrace: [isDelay, `a number of milliseconds from 1 to ${MAX_DELAY}`],
  maxAge: [value => value === Infinity || isDelay(value), `a number of milliseconds from 1 to ${MAX_DELAY}, or Infinity`],
  maxBufferedBytes: [isCount, 'a whole number from 1, or Infinity'],
  stallTimeout: [value => value === Infinity || isDelay(value), `a number of milliseconds from 1 to ${MAX_DELAY}, or Infinity`],
  // The kernel counts keepalive in whole seconds: https://man7.org/linux/man-pages/man7/tcp.7.html
  deadPeerProbe: [value => value === 0 || (isDelay(value) && (value as number) >= 1_000), `0, or a number of milliseconds from 1000 to ${MAX_DELAY}`],
  maxStreamsPerScope: [isCount, 'a whole number from 1, or Infinity'],
  onLimit: [value => value === 'replace-oldest' || value === 'reject', "'replace-oldest' or 'reject'"],
  offlineDelay: [isDelay, `a number of milliseconds from 1 to ${MAX_DELAY}`],
  browser: [value => value === undefined || (typeof value === 'string' && value.startsWith('/')), "a path that begins with '/'"],
  cluster: [value => value === undefined || typeof (value as Partial<ClusterAdapter> | null)?.join === 'function', 'an adapter, such as redisCluster({ redis })'],
  sse: [value => value === undefined || isSSEOptions(value), `an object, whose heartbeatInterval is 0 or a number of milliseconds from 1 to ${MAX_DELAY}`]
}

/**
 * Fills in the defaults. Warns of unknown options, which may be meant for other plugins: `@fastify/autoload` and parents pass the
 * same options to every plugin.
 *
 * @throws FST_ERR_OCTA_STAR_OPTION
 */
export function resolveOptions (options: OctaStarStreamsOptions, log?: Pick<FastifyBaseLogger, 'warn'>): ResolvedOptions {
  const given = Object.fromEntries(Object.entries(options).filter(([name, value]) => value !== undefined && Object.hasOwn(defaults, name)))
  for (const [name, value] of Object.entries(options)) {
    if (value !== undefined && !Object.hasOwn(defaults, name) && !FASTIFY_OPTIONS.has(name)) log?.warn(unknownOption(name))
  }
  const resolved = { ...defaults, ...given } as ResolvedOptions
  for (const [name, [test, description]] of Object.entries(expected)) {
    const value = resolved[name as keyof ResolvedOptions]
    if (!test(value)) throw new FST_ERR_OCTA_STAR_OPTION(name, description, show(value))
  }
  return Object.freeze(resolved)
}

// Fastify's `register` reads these options itself and passes them on to the plugin:
// https://fastify.dev/docs/latest/Reference/Plugins/#plugin-options
const FASTIFY_OPTIONS = new Set(['prefix', 'logLevel', 'logSerializers'])

function unknownOption (name: string): string {
  const nearest = nearestTo(name, Object.keys(defaults))
  return `octa-star-streams: unknown option '${name}'. ${nearest === undefined ? 'The plugin ignores the option' : `Did you mean '${nearest}'?`}`
}

/** Returns the name of which at most a third must be changed to get `name`, regardless of case. */
function nearestTo (name: string, names: string[]): string | undefined {
  const [nearest] = names
    .map(known => ({ known, distance: distance(name.toLowerCase(), known.toLowerCase()) }))
    .filter(({ known, distance }) => distance <= Math.floor(known.length / 3))
    .sort((a, b) => a.distance - b.distance)
  return nearest?.known
}

/** How many characters must be inserted, removed or replaced to turn `a` into `b` (Levenshtein). */
function distance (a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (const [i, char] of [...a].entries()) {
    const next = [i + 1]
    for (let j = 0; j < b.length; j++) next.push(Math.min(row[j + 1]! + 1, next[j]! + 1, row[j]! + (b[j] === char ? 0 : 1)))
    row = next
  }
  return row.at(-1)!
}

function isCount (value: unknown): boolean {
  return value === Infinity || (Number.isSafeInteger(value) && (value as number) >= 1)
}

function isDelay (value: unknown): boolean {
  return typeof value === 'number' && value >= 1 && value <= MAX_DELAY
}

function isSSEOptions (value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false
  const { heartbeatInterval } = value as { heartbeatInterval?: unknown }
  return heartbeatInterval === undefined || heartbeatInterval === 0 || isDelay(heartbeatInterval)
}
