// A holder that is no stream: it keeps the reasons it was given, and goes when the test says so.
import type { CloseReason, Holder } from '../../lib/index.ts'

export class PlainHolder implements Holder {
  reasons: CloseReason[] = []
  leave!: (error?: Error) => void
  readonly gone = new Promise<void>((resolve, reject) => { this.leave = error => error === undefined ? resolve() : reject(error) })
  close (reason: CloseReason) { this.reasons.push(reason) }
}
