// A certificate for 127.0.0.1 that signs itself, made by openssl.
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** A reason to skip a test that needs one, unless CI asks for all. */
export const withoutOpenssl = spawnSync('openssl', ['version']).status !== 0 && process.env.CI !== 'true' ? 'openssl is not installed' : false as const

export interface Certificate {
  key: Buffer
  cert: Buffer
}

/** Writes it to `directory` as well, as `key.pem` and `cert.pem`, where one is given. */
export function makeCertificate (directory?: string): Certificate {
  const there = directory ?? mkdtempSync(join(tmpdir(), 'octa-star-certificate-'))
  try {
    const [key, cert] = [join(there, 'key.pem'), join(there, 'cert.pem')]
    execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1', '-days', '2', '-keyout', key, '-out', cert], { stdio: 'ignore' })
    return { key: readFileSync(key), cert: readFileSync(cert) }
  } finally {
    if (directory === undefined) rmSync(there, { recursive: true })
  }
}
