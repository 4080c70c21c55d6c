// How a stream tells the registry about its end: the registry sets the observer, and the stream calls the observer.

/** The property of a stream with the observer. A symbol, because a holder of the application may have any other property. */
export const kObserver = Symbol('octa-star-streams.observer')

/** Is told about the end of a holder. */
export interface HolderObserver {
  /** The holder has begun to end. */
  holderEnding (): void
  /** Nothing of the holder runs any more. */
  holderGone (): void
}
