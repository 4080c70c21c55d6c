// A holder that is not a stream. Keeps the reasons passed to `close`, and is gone when the test calls `leave`.
import type { CloseReason, Holder } from '../../lib/index.ts'

export class PlainHolder implements Holder {
  reasons: CloseReason[] = []
  leave!: (error?: Error) => void
  readonly gone = new Promise<void>((resolve, reject) => { this.leave = error => error === undefined ? resolve() : reject(error) })
  close (reason: CloseReason) { this.reasons.push(reason) }
}

/** A holder that is gone as soon as the registry ends it. */
export class ObedientHolder extends PlainHolder {
  override close (reason: CloseReason) {
    super.close(reason)
    this.leave()
  }
}
