// The sizes of a soak: limits short enough that each is reached within half a minute, and a load for two cores.

export const LIMITS = {
  closeGrace: 200,
  maxAge: 10_000,
  maxBufferedBytes: 256 * 1024,
  stallTimeout: 2_000,
  maxStreamsPerScope: 10,
  offlineDelay: 500
}

/** By number of processes. Across processes, Redis may take half of `replaceTimeout` for a reply, on a busy machine too. */
export const replaceTimeoutOf = processes => processes === 1 ? 1_000 : 2_000
/** How long Redis keeps the keys of scopes that no process renews. */
export const LEASE = 12_000
/** How long two streams of a key, opened while Redis was away, may both stay after Redis has returned. The tests of faults state the same time. */
export const HEAL = 5_000
/** How late a busy machine may be when a bound of the plugin is checked. */
export const SLACK = 1_500
/** Of two streams that start in two processes within this time, either may be the newer: a claim that is held up counts from the time at which the claim was made. */
export const CONCURRENT = 1_500

export const SCOPES = 30
export const TABS_PER_SCOPE = 6
/** One scope with more tabs than `maxStreamsPerScope` allows. */
export const CROWDED = 'crowd'
export const CROWDED_TABS = 36
/** Clients that send no tab id. */
export const WITHOUT_TAB = 12

/** How long an idle socket is kept alive, also if the client is gone. */
export const KEEP_ALIVE_MS = 5_000

export const BROADCAST_MS = 500
export const SAMPLE_MS = 1_000
export const LOOK_MS = 250

/** One clock for all processes of the machine. Unit: milliseconds. */
export const clock = () => Number(process.hrtime.bigint() / 1000n) / 1000
