// More data than the kernel buffers for a peer that does not read, so sending FLOOD always has to wait for the peer.
export const FLOOD = 'x'.repeat(16 * 1024 * 1024)
