// The names that keys, fields and channels have in Redis: of fixed length and alphabet, so that none can be made to be another.
import { hash } from 'node:crypto'
import type { StreamKey } from '../../types/index.ts'

/** How many hash slots a prefix has in a Redis Cluster: what one script touches shares one. */
export const BUCKETS = 16

/** The key of a scope. The hash tag in braces puts it into its bucket: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags */
export function scopeName (prefix: string, scope: string): { readonly name: string, readonly bucket: number } {
  const digest = hash('sha256', scope)
  return { name: `${prefix}{${digest[0]}}:${digest.slice(1, 40)}`, bucket: parseInt(digest[0]!, 16) }
}

/** What the fields of a tab begin with. */
export function tabName (tabId: string): string {
  return `${hash('sha256', tabId, 'base64url').slice(0, 22)}:`
}

/** The field of a claim; without a tab id it is the claim's own. */
export function fieldName ({ tabId, name }: StreamKey, member: string, number: number): string {
  if (tabId === undefined) return `-${member}:${number}`
  return name === undefined ? tabName(tabId) : tabName(tabId) + hash('sha256', name, 'base64url').slice(0, 22)
}

/** What the name of each member's channel begins with. */
export function channelPrefix (prefix: string): string {
  return `${prefix}member:`
}
