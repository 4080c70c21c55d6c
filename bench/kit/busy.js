// A busy neighbour: spins, and looks every tenth of a second whether the parent process is still connected.
function spin () {
  const start = performance.now()
  while (performance.now() - start < 100);
  if (process.connected) setImmediate(spin)
}
// Without a listener, Node does not read from the channel to the parent, and does not notice that the parent has gone.
process.on('disconnect', () => {})
spin()
