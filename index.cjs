'use strict'

// What `import` and `require()` load. There is one copy of the plugin, so both get the same module state. `require()` returns the plugin itself,
// with the named exports as properties. Node finds the names of these properties for `import` by reading the assignments.
const { octaStarStreams, streamKey } = require('./dist/lib/index.js')

module.exports = octaStarStreams
module.exports.default = octaStarStreams
module.exports.octaStarStreams = octaStarStreams
module.exports.streamKey = streamKey
