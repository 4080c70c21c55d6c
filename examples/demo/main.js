// Runs a demo from the command line: prints the URL, or the reason why the demo cannot start. Ctrl-C closes the demo.
export async function main (start, command) {
  const port = Number(process.env.PORT ?? 3000)
  try {
    const demo = await start({ port })
    console.log(`The demo is at ${demo.url} (press Ctrl-C to stop)`)
    for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => demo.close())
  } catch (error) {
    console.error(error.code === 'EADDRINUSE'
      ? `Port ${port} is in use. Choose another port: PORT=3001 ${command}`
      : `The demo cannot start on port ${port}: ${error.message}`)
    process.exitCode = 1
  }
}
