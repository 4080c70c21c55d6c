// A NestJS application: each tab has one stream with the time, and an order in one tab reaches all tabs of the user.
import 'reflect-metadata'
import { setTimeout } from 'node:timers/promises'
import { Body, Controller, Get, Header, Module, Post, Req, Res } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'
import { FastifyAdapter, RouteConfig, type NestFastifyApplication } from '@nestjs/platform-fastify'
import type { FastifyReply, FastifyRequest } from 'fastify'
import octaStarStreams from 'octa-star-streams'

const USER = 'ann' // the identity of the signed-in user, never from the client

const PAGE = `<!doctype html>
<html lang="en">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>octa-star-streams on NestJS</title>
<link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
  body { max-width: 36rem; margin: 0 auto; padding: 1rem; }
  button { font: inherit; padding: .4rem 1rem; border: 0; border-radius: .5rem; background: #2563eb; color: #fff; cursor: pointer; }
</style>
<h1>Orders</h1>
<p id="time">Connecting</p>
<button>Order tea</button>
<ul id="orders"></ul>
<script type="module">
  import { tabId } from '/octa-star/tab-id.js'
  const byId = id => document.getElementById(id)
  let source
  function open () {
    source?.close()
    source = new EventSource('/stream?datastar=' + encodeURIComponent(JSON.stringify({ tabId: tabId() })))
    source.addEventListener('time', event => { byId('time').textContent = event.data })
    source.addEventListener('order', event => {
      const item = document.createElement('li')
      item.textContent = event.data
      byId('orders').append(item)
    })
    source.addEventListener('octa-star-closed', event => event.target.close())
  }
  open()
  addEventListener('pageshow', event => { if (event.persisted) setTimeout(open) }) // back from the back/forward cache
  document.querySelector('button').onclick = () => fetch('/orders', { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"what":"tea"}' })
</script>
</html>`

@Controller()
class ShopController {
  @Get()
  @Header('content-type', 'text/html; charset=utf-8')
  page () {
    return PAGE
  }

  @Get('stream')
  @RouteConfig({ sse: 'only' })
  async stream (@Res() reply: FastifyReply) {
    const stream = await reply.startStream(USER)
    stream.onReplaced(() => stream.send({ event: 'time', data: 'The time goes on in a newer stream.' }))
    // Rejects when the stream ends, which is the normal end of this handler: do not catch that error.
    for (;; await setTimeout(1000, undefined, { signal: stream.signal })) {
      await stream.send({ event: 'time', data: new Date().toISOString() })
    }
  }

  @Post('orders')
  async order (@Req() request: FastifyRequest, @Body('what') what: unknown) {
    return { tabs: await request.server.streamRegistry.send(USER, { event: 'order', data: String(what) }) }
  }
}

@Module({ controllers: [ShopController] })
class ShopModule {}

const app = await NestFactory.create<NestFastifyApplication>(ShopModule, new FastifyAdapter(), { logger: ['error', 'warn'] })
// Before `listen`, in which NestJS declares the routes.
await app.register(octaStarStreams, { browser: '/octa-star/tab-id.js' })
app.enableShutdownHooks()
await app.listen(Number(process.env.PORT ?? 3000), '127.0.0.1')
const { port } = app.getHttpServer().address() as { port: number }
console.log(`The orders are at http://localhost:${port}/ (press Ctrl-C to stop)`)
