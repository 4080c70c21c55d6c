// An application with @fastify/cookie and @fastify/session, whose `onSend` hooks set two cookies on every response.
import fastifyCookie from '@fastify/cookie'
import fastifySession from '@fastify/session'

export async function registerHooks (fastify) {
  await fastify.register(fastifyCookie)
  await fastify.register(fastifySession, { secret: 'a secret with at least 32 characters', cookie: { secure: false } })
  fastify.addHook('preHandler', async (request, reply) => {
    request.session.user = 'ann'
    reply.setCookie('theme', 'dark')
  })
}
