// A logger that keeps all lines in memory. Has the methods of pino that the plugin calls.
import type { FastifyBaseLogger } from 'fastify'

export interface MemoryLog {
  lines: Array<{ level: string, details: Record<string, unknown>, message: string }>
  log: FastifyBaseLogger
}

export function memoryLog (): MemoryLog {
  const lines: MemoryLog['lines'] = []
  const at = (level: string) => (details: Record<string, unknown>, message: string) => { lines.push({ level, details, message }) }
  const log = { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') }
  return { lines, log: log as unknown as FastifyBaseLogger }
}
