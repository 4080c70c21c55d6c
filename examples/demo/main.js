// What a demo says and does when it is started from the command line: where it is, why it cannot start, Ctrl-C.
export async function main (start, command) {
  const port = Number(process.env.PORT ?? 3000)
  try {
    const demo = await start({ port })
    console.log(`The demo is at ${demo.url} (Ctrl-C ends it)`)
    for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => demo.close())
  } catch (error) {
    console.error(error.code === 'EADDRINUSE'
      ? `Port ${port} is in use: choose another, as in PORT=3001 ${command}`
      : `The demo cannot start on port ${port}: ${error.message}`)
    process.exitCode = 1
  }
}
