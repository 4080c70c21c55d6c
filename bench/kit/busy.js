// A busy neighbour: spins, and looks every tenth of a second whether the parent process is still there.
process.once('disconnect', () => process.exit())

function spin () {
  const start = performance.now()
  while (performance.now() - start < 100);
  setImmediate(spin)
}
spin()
