// Starts an nginx for one test: a single foreground process on a free port, with all paths in a temporary directory.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { Test } from 'tap'
import { freePort } from './free-port.ts'
import { PATH, reasonToSkip } from './programs.ts'

// Debian installs nginx in /usr/sbin, which a user's PATH does not contain.
const env = { ...process.env, PATH }

/** Options for `t.test`: skip if nginx is missing. On CI no test is skipped. */
export const nginxOptions = {
  skip: reasonToSkip('nginx')
}

export interface Nginx {
  url: (path: string) => string
  /** The error log so far. */
  errors: () => string
}

/** `listen` adds parameters to the `listen` directive, and `http` adds lines to the `http` block. */
export interface NginxOptions {
  listen?: string
  http?: string
}

/** Starts nginx with `lines` in the `server` block. Stops nginx when the test ends. */
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
  // Without `-e`, nginx writes errors to the system's log file until nginx has read the configuration.
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
