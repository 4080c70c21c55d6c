// The sizes of a soak: limits short enough that each is reached within half a minute, and a load for two cores.

export const LIMITS = {
  closeGrace: 200,
  maxAge: 10_000,
  maxBufferedBytes: 256 * 1024,
  stallTimeout: 2_000,
  maxStreamsPerScope: 10
}

/** By number of processes: across processes half of it is how long Redis may take, on a busy machine too. */
export const replaceTimeoutOf = processes => processes === 1 ? 1_000 : 2_000
/** Longer than a process is stopped for, twice over: one whose lease is over is waited for no longer. */
export const LEASE = 6_000
/** How long what Redis's absence has doubled may take to be one again. The tests of faults state the same. */
export const HEAL = 5_000
/** What a busy machine may be late by, where a bound of the plugin's is checked. */
export const SLACK = 1_500
/** Of two that start in two processes within that time either may be the newer: a claim that is held up counts from when it was made. */
export const CONCURRENT = 1_500

export const SCOPES = 30
export const TABS_PER_SCOPE = 6
/** One scope with more tabs than `maxStreamsPerScope` allows. */
export const CROWDED = 'crowd'
export const CROWDED_TABS = 36
/** Clients that send no tab id. */
export const WITHOUT_TAB = 12

/** A socket that is kept alive is left so long, also one that nobody has at its other end any more. */
export const KEEP_ALIVE_MS = 5_000

export const BROADCAST_MS = 500
export const SAMPLE_MS = 1_000
export const LOOK_MS = 250

/** One clock for all processes of the machine. Unit: milliseconds. */
export const clock = () => Number(process.hrtime.bigint() / 1000n) / 1000
