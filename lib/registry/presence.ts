// Reports when a scope comes online and goes offline: when the first stream opens, and when the last stream has been gone for a while.
import { DelayQueue, type Delayed } from '../delay-queue.ts'
import { isPresenceObserved, reportOffline, reportOnline } from '../diagnostics.ts'
import type { Cluster } from '../../types/cluster.ts'
import type { ScopeKey, StreamKey } from '../../types/stream.ts'

/** A scope that has a stream in this process, or had one until lately. */
interface PresentScope {
  readonly scope: string
  readonly scopeKey: ScopeKey
  streams: number
  /** Set while the scope has no stream. */
  leaving: Delayed<PresentScope> | undefined
}

export class Presence {
  readonly #scopes = new Map<string, PresentScope>()
  // A page that navigates has no stream for a moment.
  readonly #leaving: DelayQueue<PresentScope>
  /** The last report of each scope that the cluster has not answered yet. */
  readonly #turns = new Map<string, Promise<void>>()
  readonly #registry: { readonly cluster: Cluster | undefined }

  /** `offlineDelay` is in milliseconds. */
  constructor (registry: { readonly cluster: Cluster | undefined }, offlineDelay: number) {
    this.#registry = registry
    this.#leaving = new DelayQueue(offlineDelay, present => this.#onLeft(present))
  }

  /** A stream has opened. Returns `true` if the caller must call `gone` when the stream is gone: if nobody listens, nothing is counted. */
  opened ({ scope, scopeKey }: StreamKey): boolean {
    if (!isPresenceObserved()) return false
    const present = this.#scopes.get(scope)
    if (present === undefined) {
      this.#scopes.set(scope, { scope, scopeKey, streams: 1, leaving: undefined })
      this.#onCame(scope, scopeKey)
      return true
    }
    present.streams++
    if (present.leaving !== undefined) this.#leaving.delete(present.leaving)
    present.leaving = undefined
    return true
  }

  gone ({ scope }: StreamKey): void {
    const present = this.#scopes.get(scope)!
    if (--present.streams === 0) present.leaving = this.#leaving.add(present)
  }

  /** The server has closed. In a cluster, the other processes find out whether the user comes to one of them. */
  close (): void {
    for (const { scope, scopeKey, leaving } of this.#scopes.values()) {
      if (leaving !== undefined) this.#leaving.delete(leaving)
      if (this.#registry.cluster === undefined) reportOffline({ scopeKey })
      this.#scopes.delete(scope)
    }
  }

  #onCame (scope: string, scopeKey: ScopeKey): void {
    const { cluster } = this.#registry
    const report = () => reportOnline({ scopeKey })
    if (cluster === undefined) report()
    else this.#inTurn(scope, async () => { if (await cluster.markOnline(scope, report)) report() })
  }

  #onLeft ({ scope, scopeKey }: PresentScope): void {
    const { cluster } = this.#registry
    this.#scopes.delete(scope)
    if (cluster === undefined) reportOffline({ scopeKey })
    else this.#inTurn(scope, async () => { if (await cluster.markOffline(scope)) reportOffline({ scopeKey }) })
  }

  // The store may take long to answer, and a user may go and come back meanwhile.
  #inTurn (scope: string, report: () => Promise<void>): void {
    const turn = (this.#turns.get(scope) ?? Promise.resolve()).then(report).finally(() => {
      if (this.#turns.get(scope) === turn) this.#turns.delete(scope)
    })
    this.#turns.set(scope, turn)
  }
}
