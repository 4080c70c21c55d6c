// An nginx of the test's own: one foreground process on a free port, with every path of it in a temporary directory.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { Test } from 'tap'
import { freePort } from './free-port.ts'

// Debian has it where a user's PATH does not lead.
const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` }
const missing = spawnSync('nginx', ['-v'], { env }).status !== 0

/** What a test file passes to t.test: a reason to skip, unless CI asks for all. */
export const nginxOptions = {
  timeout: 120_000,
  skip: missing && process.env.CI !== 'true' ? 'nginx is not installed' : false as const
}

export interface Nginx {
  url: (path: string) => string
  /** What it has written to its error log so far. */
  errors: () => string
}

/** What it listens with besides its address, and what its `http` block has besides its `server`. */
export interface NginxOptions {
  listen?: string
  http?: string
}

/** Starts one whose `server` block has `lines`, and ends it when the test does. */
export async function startNginx (t: Test, lines: string, { listen = '', http = '' }: NginxOptions = {}): Promise<Nginx> {
  const port = await freePort()
  const directory = await mkdtemp(join(tmpdir(), 'octa-star-nginx-'))
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(name => `${name}_temp_path ${directory}/${name};`).join('\n')
  await writeFile(join(directory, 'nginx.conf'), `
    daemon off;
    # One process: nothing is left behind, and no worker of another user has to reach the directory.
    master_process off;
    pid ${directory}/pid;
    error_log stderr notice;
    events {}
    http {
      access_log off;
      ${temporary}
      ${http}
      server {
        listen 127.0.0.1:${port} ${listen};
        ${lines}
      }
    }`)
  // Before it has read its configuration it would write to the log of the system's.
  const child = spawn('nginx', ['-p', directory, '-c', join(directory, 'nginx.conf'), '-e', 'stderr'], { env, stdio: ['ignore', 'ignore', 'pipe'] })
  let errors = ''
  child.stderr.on('data', text => { errors += text })
  const exited = once(child, 'exit')
  t.teardown(async () => {
    child.kill('SIGTERM')
    await exited
    await rm(directory, { recursive: true, force: true })
  })
  while (!await accepts(port)) {
    if (child.exitCode !== null) throw new Error(`nginx did not start: ${errors}`)
    await pause(10)
  }
  return { url: path => `http://127.0.0.1:${port}${path}`, errors: () => errors }
}

async function accepts (port: number): Promise<boolean> {
  const socket = net.connect(port, '127.0.0.1')
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}
