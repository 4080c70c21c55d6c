// One benchmark, in a process of its own: what one leaves behind on the heap is not the next one's.
const [name, size] = process.argv.slice(2)
const { sizes, run } = await import(`../${name}.js`)
process.send(await run(sizes[size]))
process.disconnect()
