// NestJS 11 and 12 on Fastify: a route declares its stream with `@RouteConfig`, and the filters of NestJS, which catch the errors of the handlers first,
// neither disturb the end of a stream nor log a normal end.
import { once, type EventEmitter } from 'node:events'
import { mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import http from 'node:http'
import { createRequire } from 'node:module'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Writable } from 'node:stream'
import { setTimeout } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import type { ArgumentsHost, CallHandler, HttpServer, NestInterceptor } from '@nestjs/common'
import { fastifySSE } from '@fastify/sse'
import { transform } from 'esbuild'
import Fastify, { type FastifyReply } from 'fastify'
import { catchError, of } from 'rxjs'
import t, { type Test } from 'tap'
import octaStarStreams, { type CloseReason, type Stream } from '../lib/index.ts'
import { streamsOf, withSignals } from './kit/app.ts'
import { startChild } from './kit/child.ts'
import { connect } from './kit/client.ts'
import { root, run } from './kit/run.ts'

// NestJS 12 consists of ES modules that tap's loader does not resolve. So this file runs itself once more for NestJS 12, in a process without that loader.
const isFor12 = process.env.OCTA_NESTJS === '12'

// Both versions cannot be installed in one folder, because the packages of NestJS are peers of each other.
const folder11 = await mkdtemp(join(tmpdir(), 'octa-star-streams-'))
t.teardown(() => rm(folder11, { recursive: true, force: true }))
if (!isFor12) {
  await writeFile(join(folder11, 'package.json'), '{ "private": true, "type": "module" }')
  await run('npm', ['install', '--no-audit', '--no-fund', '@nestjs/common@11', '@nestjs/core@11', '@nestjs/platform-fastify@11', 'reflect-metadata@0.2', 'rxjs@7'], { cwd: folder11 })
  await symlink(root, join(folder11, 'node_modules', 'octa-star-streams'))
}

interface Nest {
  version: string
  common: typeof import('@nestjs/common')
  core: typeof import('@nestjs/core')
  platform: typeof import('@nestjs/platform-fastify')
}

async function load (folder: string): Promise<Nest> {
  const { resolve } = createRequire(join(folder, 'package.json'))
  const importFrom = async (name: string) => await import(pathToFileURL(resolve(name)).href)
  const { version } = JSON.parse(await readFile(resolve('@nestjs/core/package.json'), 'utf8'))
  return { version, common: await importFrom('@nestjs/common'), core: await importFrom('@nestjs/core'), platform: await importFrom('@nestjs/platform-fastify') }
}

type Handler = (reply: FastifyReply) => unknown

interface Options {
  /** A filter for all errors. `builtIn` is the filter of NestJS. */
  filter?: (builtIn: (error: unknown, host: ArgumentsHost) => void, error: unknown, host: ArgumentsHost, adapter: HttpServer) => unknown
  intercept?: (...args: Parameters<NestInterceptor['intercept']>) => ReturnType<CallHandler['handle']>
  passthrough?: boolean
  onSend?: (reply: { raw: object }) => Promise<void>
}

/** An application with a stream's route for each handler. */
async function startApp (t: Test, nest: Nest, handlers: Record<string, Handler>, { filter, intercept, passthrough = false, onSend }: Options = {}) {
  const { common: { Catch, Controller, Get, Module, Res }, core: { BaseExceptionFilter, NestFactory }, platform: { FastifyAdapter, RouteConfig } } = nest
  // By hand, because Node and tap run no decorators.
  class Routes {}
  for (const [path, handler] of Object.entries(handlers)) {
    const descriptor = { value: (reply: FastifyReply) => handler(reply), configurable: true, writable: true }
    Object.defineProperty(Routes.prototype, path, descriptor)
    Res({ passthrough })(Routes.prototype, path, 0)
    RouteConfig({ sse: 'only' })(Routes.prototype, path, descriptor)
    Get(path)(Routes.prototype, path, descriptor)
  }
  Controller()(Routes)
  class Root {}
  Module({ controllers: [Routes] })(Root)

  /** What NestJS and Fastify have logged as a warning or an error. */
  const logged: string[] = []
  const log = (message: unknown) => { logged.push(message instanceof Error ? message.message : String(message)) }
  const sink = new Writable({
    write (line, _encoding, done) {
      const { msg, err } = JSON.parse(String(line))
      logged.push(msg ?? err?.message)
      done()
    }
  })
  const app = await NestFactory.create(Root, new FastifyAdapter({ logger: { level: 'warn', stream: sink }, forceCloseConnections: 'idle' }) as never, { logger: { log () {}, warn: log, error: log } })
  if (filter !== undefined) {
    class Filter extends BaseExceptionFilter {
      override catch (error: unknown, host: ArgumentsHost) { return filter!((...args) => super.catch(...args), error, host, app.getHttpAdapter()) as void }
    }
    Catch()(Filter)
    app.useGlobalFilters(new Filter(app.getHttpAdapter()))
  }
  if (intercept !== undefined) app.useGlobalInterceptors({ intercept })
  const adapter = app.getHttpAdapter() as unknown as InstanceType<typeof FastifyAdapter>
  const fastify = adapter.getInstance()
  if (onSend !== undefined) fastify.addHook('onSend', async (_request, reply) => { await onSend(reply) })
  /** The status of each response that has finished, as `onResponse` hooks see the status. */
  const statuses: number[] = []
  fastify.addHook('onResponse', async (_request, reply) => { statuses.push(reply.statusCode) })
  await adapter.register(octaStarStreams as never)
  await app.listen(0, '127.0.0.1')
  t.teardown(() => app.close())
  const { port } = fastify.server.address() as AddressInfo
  return { app, fastify, logged, statuses, url: (path: string, tabId = 'a') => `http://127.0.0.1:${port}${withSignals(path, { tabId })}` }
}

/** A handler that runs until its stream ends, as the plugin's users write handlers. */
const untilTheEnd: Handler = async reply => {
  const stream = await reply.startStream('ann')
  stream.onReplaced(() => stream.send({ event: 'last-word', data: 'x' }))
  for (;; await setTimeout(60_000, undefined, { signal: stream.signal })) await stream.send('hello')
}

const reasons: CloseReason[] = []

const fails: Handler = async reply => {
  const stream = await reply.startStream('ann')
  stream.onClose(reason => { reasons.push(reason) })
  await stream.send('hello')
  throw new Error('a fault')
}

const FAILED = "the handler of the stream on GET /fails threw an error, which the application's framework has handled"

/** Resolves to the reason for which the newest stream ends. */
function endOfStream (fastify: { streamRegistry: Iterable<unknown> }): Promise<CloseReason> {
  return (streamsOf(fastify as never).at(-1) as Stream).gone as Promise<CloseReason>
}

{
  const nest = await load(isFor12 ? root : folder11)

  t.test(`NestJS ${nest.version}`, async t => {
    t.test('a stream that is replaced sends its last word and the farewell, and nothing is logged', async t => {
      const { url, logged, fastify } = await startApp(t, nest, { stream: untilTheEnd })
      const first = await connect(url('/stream'))
      await first.event(1)
      const gone = endOfStream(fastify)
      const second = await connect(url('/stream'))
      t.equal(await first.ended, 'clean')
      t.strictSame(first.events.map(({ event }) => event), ['message', 'last-word', 'octa-star-closed'])
      t.equal(await gone, 'replaced')
      const again = await connect(url('/stream'), { headers: { 'last-event-id': first.events.at(-1)!.id! } })
      t.equal(again.status, 204)
      second.leave()
      t.strictSame(logged, [])
    })

    for (const reason of ['evicted', 'disconnected', 'shutdown'] as const) {
      t.test(`a stream that ends as ${reason} logs nothing`, async t => {
        const { app, url, logged, fastify } = await startApp(t, nest, { stream: untilTheEnd })
        const client = await connect(url('/stream'))
        await client.event(1)
        const gone = endOfStream(fastify)
        if (reason === 'evicted') await fastify.streamRegistry.evict('ann')
        else if (reason === 'disconnected') client.leave()
        else await app.close()
        t.equal(await gone, reason)
        await client.ended
        if (reason === 'evicted') t.match(client.events.at(-1), { event: 'octa-star-closed', data: 'evicted' })
        t.strictSame(logged, [])
      })
    }

    t.test('a stream that ends logs nothing in a process without stack traces either', async t => {
      const { stackTraceLimit } = Error
      t.teardown(() => { Error.stackTraceLimit = stackTraceLimit })
      const { url, logged, fastify } = await startApp(t, nest, { stream: untilTheEnd })
      const client = await connect(url('/stream'))
      await client.event(1)
      const gone = endOfStream(fastify)
      Error.stackTraceLimit = 0
      await fastify.streamRegistry.evict('ann')
      t.equal(await gone, 'evicted')
      await client.ended
      t.equal(Error.stackTraceLimit, 0)
      t.strictSame(logged, [])
    })

    t.test('a request that is replaced or disconnects while it waits, and a refused request, log nothing', async t => {
      const { url, logged, fastify } = await startApp(t, nest, { stream: untilTheEnd })
      const first = await connect(url('/stream'))
      await first.event(1)
      const [stream] = streamsOf(fastify as never)
      let letGo = () => {}
      stream!.onClose(() => new Promise<void>(resolve => { letGo = resolve }))
      const second = connect(url('/stream'))
      while (!stream!.closing) await setTimeout(1)
      const third = connect(url('/stream'))
      t.equal((await second).status, 204)
      const seen = new Promise(resolve => fastify.server.once('request', (_request, response) => response.once('close', resolve)))
      const leaver = http.get(url('/stream')).on('error', () => {})
      t.equal((await third).status, 204)
      leaver.destroy()
      await seen
      letGo()
      while (await fastify.streamRegistry.count('ann') > 0) await setTimeout(1)
      t.equal((await connect(url('/stream'), { method: 'HEAD' })).status, 200)
      t.strictSame(logged, [])
    })

    t.test('a request that is refused or left while an onSend hook takes its time logs nothing', async t => {
      let hooks = 0
      let leave = () => {}
      const { app, url, logged } = await startApp(t, nest, { stream: untilTheEnd }, {
        async onSend ({ raw }) {
          hooks++
          if (hooks > 1) return await setTimeout(20)
          leave()
          await once(raw as EventEmitter, 'close')
        }
      })
      const leaver = http.get(url('/stream'))
      leave = () => leaver.destroy()
      await once(leaver, 'error')
      const refused = await connect(url('/stream'), { headers: { 'last-event-id': `octa-star-closed:evicted:${Date.now() + 60_000}` } })
      t.equal(refused.status, 204)
      t.equal(hooks, 2)
      await app.close()
      t.strictSame(logged, [])
    })

    t.test('a request whose client has left before startStream logs nothing', async t => {
      let leave = () => {}
      const { app, url, logged } = await startApp(t, nest, {
        async late (reply) {
          leave()
          await once(reply.raw, 'close')
          await reply.startStream('ann')
        }
      })
      const leaver = http.get(url('/late'))
      leave = () => leaver.destroy()
      await once(leaver, 'error')
      await app.close()
      t.strictSame(logged, [])
    })

    t.test('a handler that throws ends its stream as failed, and NestJS logs the error', async t => {
      const { url, logged } = await startApp(t, nest, { fails, before: async () => { throw new nest.common.HttpException('teapot', 418) } })
      const client = await connect(url('/fails'))
      t.equal(await client.ended, 'broken')
      while (logged.length < 2) await setTimeout(1)
      t.strictSame(logged.sort(), ['a fault', FAILED].sort())
      t.equal(reasons.pop(), 'failed')
      t.equal((await connect(url('/before'))).status, 418)
    })

    // The filter of NestJS through filters of the application, and filters that reply by themselves.
    const response = (host: ArgumentsHost) => host.switchToHttp().getResponse<FastifyReply>()
    const body = { statusCode: 500, message: 'filtered' }
    const filters: Record<string, { filter: Options['filter'], logsEnd?: true }> = {
      'a filter that extends the filter of NestJS': { filter: (builtIn, error, host) => { builtIn(error, host) }, logsEnd: true },
      'an asynchronous filter that extends the filter of NestJS': { filter: async (builtIn, error, host) => { builtIn(error, host) }, logsEnd: true },
      // As in the README.
      'a filter that extends the filter of NestJS, and returns at the AbortError of a stream': {
        filter (builtIn, error, host) {
          if ((error as Error).name === 'AbortError' && response(host).sent) return
          builtIn(error, host)
        }
      },
      'a filter that replies': { filter: (_builtIn, _error, host) => { response(host).code(500).send(body) } },
      'an asynchronous filter that replies before it awaits anything': {
        async filter (_builtIn, _error, host) {
          response(host).status(500).send(body)
          await setTimeout(1)
        }
      },
      // https://docs.nestjs.com/exception-filters#catch-everything
      'the filter for everything of the manual of NestJS': { filter: (_builtIn, _error, host, adapter) => { adapter.reply(host.switchToHttp().getResponse(), body, 500) } }
    }
    for (const [name, { filter, logsEnd = false }] of Object.entries(filters)) {
      t.test(`with ${name}, a replaced stream ends with the farewell, and a fault ends the stream as failed`, async t => {
        const { url, logged, fastify, statuses } = await startApp(t, nest, { stream: untilTheEnd, fails }, { filter: filter! })
        const first = await connect(url('/stream'))
        await first.event(1)
        const gone = endOfStream(fastify)
        const second = await connect(url('/stream'))
        t.equal(await first.ended, 'clean')
        t.strictSame(first.events.map(({ event }) => event), ['message', 'last-word', 'octa-star-closed'])
        t.equal(await gone, 'replaced')
        t.strictSame(logged, logsEnd ? ['The operation was aborted'] : [])
        const left = endOfStream(fastify)
        second.leave()
        t.equal(await left, 'disconnected')
        t.equal(await (await connect(url('/fails', 'b'))).ended, 'broken')
        t.equal(reasons.pop(), 'failed')
        t.ok(logged.includes(FAILED))
        t.strictSame(statuses, [200], 'a filter does not change the status that onResponse hooks and the log see')
      })
    }

    // NestJS does not wait for a filter, and the handler's promise resolves as if the handler had returned.
    t.test('with an asynchronous filter that awaits before it replies, a fault ends the stream as finished', async t => {
      const filter: Options['filter'] = async (_builtIn, _error, host) => {
        await setTimeout(1)
        response(host).code(500).send(body)
      }
      const { url, logged, statuses } = await startApp(t, nest, { stream: untilTheEnd, fails }, { filter })
      const first = await connect(url('/stream'))
      await first.event(1)
      const second = await connect(url('/stream'))
      t.equal(await first.ended, 'clean')
      t.match(first.events.at(-1), { event: 'octa-star-closed', data: 'replaced' })
      second.leave()
      t.equal(await (await connect(url('/fails', 'b'))).ended, 'clean')
      t.equal(reasons.pop(), 'finished')
      t.strictSame(logged, [])
      t.strictSame(statuses, [200, 200])
    })

    t.test('an interceptor that turns each error into another error changes nothing', async t => {
      const intercept: Options['intercept'] = (_context, next) => next.handle().pipe(catchError(() => { throw new nest.common.BadGatewayException() }))
      const { url, logged, fastify } = await startApp(t, nest, { stream: untilTheEnd, fails }, { intercept })
      const first = await connect(url('/stream'))
      await first.event(1)
      const gone = endOfStream(fastify)
      const second = await connect(url('/stream'))
      t.equal(await first.ended, 'clean')
      t.strictSame(first.events.map(({ event }) => event), ['message', 'last-word', 'octa-star-closed'])
      t.equal(await gone, 'replaced')
      second.leave()
      t.strictSame(logged, [])
      t.equal(await (await connect(url('/fails', 'b'))).ended, 'broken')
      t.equal(reasons.pop(), 'failed')
      t.strictSame(logged, [FAILED])
    })

    t.test('an interceptor that turns each error into a result ends the stream as finished', async t => {
      const intercept: Options['intercept'] = (_context, next) => next.handle().pipe(catchError(() => of(undefined)))
      const { url, logged } = await startApp(t, nest, { stream: untilTheEnd, fails }, { intercept })
      const first = await connect(url('/stream'))
      await first.event(1)
      const second = await connect(url('/stream'))
      t.equal(await first.ended, 'clean')
      t.match(first.events.at(-1), { event: 'octa-star-closed', data: 'replaced' })
      second.leave()
      t.equal(await (await connect(url('/fails', 'b'))).ended, 'clean')
      t.equal(reasons.pop(), 'finished')
      t.strictSame(logged, [])
    })

    t.test('a handler that returns ends its stream as finished', async t => {
      const { url, logged } = await startApp(t, nest, {
        async short (reply) {
          const stream = await reply.startStream('ann')
          stream.onClose(reason => { reasons.push(reason) })
          await stream.send('hello')
        }
      })
      t.equal(await (await connect(url('/short'))).ended, 'clean')
      t.equal(reasons.pop(), 'finished')
      t.strictSame(logged, [])
    })

    t.test('a handler whose result NestJS sends may keep its stream alive', async t => {
      const { url, logged, fastify } = await startApp(t, nest, { stream: async reply => { (await reply.startStream('ann')).keepAlive() } }, { passthrough: true })
      const client = await connect(url('/stream'))
      await setTimeout(20)
      t.equal(await fastify.streamRegistry.send('ann', 'hello'), 1)
      t.match(await client.event(1), { data: 'hello' })
      client.leave()
      t.strictSame(logged, [])
    })
  })
}

t.test('NestJS 12 passes the same tests', { skip: isFor12 && 'this is the process for NestJS 12' }, async t => {
  const command = ['OCTA_NESTJS=12', process.execPath, '--enable-source-maps', '--import=./test/kit/strip-types.js', 'test/nestjs.test.ts']
  const { stdout } = await run('env', command).catch(error => { throw new Error(error.stdout + error.stderr) })
  t.match(stdout, /^ok 1 - NestJS 12\./m)
})

for (const [version, folder] of isFor12 ? [] : [['11', folder11], ['12', root]] as const) {
  t.test(`the example runs with NestJS ${version}`, async t => {
    const { code } = await transform(await readFile(join(root, 'examples/nestjs/main.ts'), 'utf8'), { loader: 'ts', tsconfigRaw: { compilerOptions: { experimentalDecorators: true } } })
    const file = join(folder, folder === root ? 'examples/nestjs/main.js' : 'main.js')
    await writeFile(file, code)
    t.teardown(() => rm(file))
    const { lines, errors, signal, exited } = startChild(t, file, { PORT: '0' })
    const [line] = await Promise.race([once(lines, 'line'), exited.then(() => { throw new Error(errors()) })])
    const url = /http:\/\/localhost:\d+/.exec(line)![0].replace('localhost', '127.0.0.1')
    t.match(await (await fetch(url, { headers: { connection: 'close' } })).text(), /tab-id\.js/)
    const path = withSignals('/stream', { tabId: 'a' })
    const first = await connect(url + path)
    await first.event(1)
    const second = await connect(url + path)
    t.equal(await first.ended, 'clean')
    t.match(first.events.slice(-2), [{ event: 'time', data: /newer stream/ }, { event: 'octa-star-closed' }])
    await second.event(1)
    const headers = { 'content-type': 'application/json', connection: 'close' }
    t.strictSame(await (await fetch(`${url}/orders`, { method: 'POST', headers, body: '{"what":"tea"}' })).json(), { tabs: 1 })
    while (second.events.at(-1)!.event !== 'order') await once(second, 'received')
    t.equal(second.events.at(-1)!.data, 'tea')
    signal('SIGTERM')
    t.equal(await second.ended, 'broken')
    await exited
    t.equal(errors(), '')
  })
}

t.test('where the application registers @fastify/sse itself, `config` is not read, and the error names the missing option', async t => {
  const fastify = Fastify()
  await fastify.register(fastifySSE)
  await fastify.register(octaStarStreams)
  fastify.get('/stream', { config: { sse: 'only' } }, async (_request, reply) => { await reply.startStream('ann') })
  t.match((await fastify.inject('/stream')).json(), { code: 'FST_ERR_OCTA_STAR_ROUTE' })
  await fastify.close()
})

t.test('the example compiles under TypeScript', async t => {
  t.equal((await run('node_modules/.bin/tsc', ['-p', 'examples/nestjs'])).stdout, '')
})
