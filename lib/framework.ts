// Keeps a framework that runs the handlers of routes, such as NestJS, from answering on a response that belongs to a stream.
import type { FastifyReply } from 'fastify'
import { streamClosed } from './errors.ts'
import type { StreamResponse } from './http/response.ts'
import type { LiveStream } from './stream/stream.ts'
import type { CloseReason } from '../types/stream.ts'

/** The default of V8. The filter is among these frames. */
const STACK_FRAMES = 10

/**
 * Keeps a framework from answering an error of the handler on a response that belongs to `stream`. The filters of NestJS end the raw
 * response, or send another reply.
 */
export function guardReply (reply: FastifyReply, response: StreamResponse, stream: Pick<LiveStream, 'closing' | 'closedError' | 'handlerErrorAnswered'>): void {
  response.guardEnd(() => {
    const wasClosing = stream.closing
    stream.handlerErrorAnswered()
    if (wasClosing && isFilterOfNest()) throw stream.closedError()
  })
  // Not the response's own status, which `onResponse` hooks and the log would take for what the client got.
  let { statusCode } = reply
  reply.code = reply.status = code => {
    statusCode = Number(code)
    return reply
  }
  // NestJS warns if an error is sent with a type other than JSON.
  const { getHeader } = reply
  reply.getHeader = name => statusCode >= 400 && String(name).toLowerCase() === 'content-type' ? undefined : getHeader.call(reply, name)
  reply.send = () => {
    // A handler with `@Res({ passthrough: true })` sends what it has returned, with the status of a success.
    if (statusCode >= 400) stream.handlerErrorAnswered()
    statusCode = reply.statusCode
    return reply
  }
}

/** Returns the error for a request that `refuse` has answered, once a framework can no longer change the answer. */
export async function guardRefused (reply: FastifyReply, response: StreamResponse, reason: CloseReason): Promise<Error> {
  const error = streamClosed(reason)
  if (reason === 'disconnected') reply.hijack()
  else if (!reply.sent) await new Promise(resolve => reply.raw.once('finish', resolve).once('close', resolve))
  guardReply(reply, response, { closing: true, closedError: () => error, handlerErrorAnswered () {} })
  return error
}

// After answering, the built-in filter of NestJS logs every error, also the error that says that a stream has ended, unless answering
// throws. A filter of the application may be asynchronous, and is not awaited: there the error would end the process.
// https://github.com/nestjs/nest/blob/master/packages/core/exceptions/exceptions-handler.ts
function isFilterOfNest (): boolean {
  const { stackTraceLimit } = Error
  // The application may have turned stack traces off.
  Error.stackTraceLimit = STACK_FRAMES
  const { stack = '' } = new Error()
  Error.stackTraceLimit = stackTraceLimit
  return stack.includes('ExceptionsHandler.next') && !stack.includes('.invokeCustomFilters')
}
