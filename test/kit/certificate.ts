// A self-signed certificate for 127.0.0.1, made by openssl.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { reasonToSkip } from './programs.ts'

/** The reason to skip a test that needs a certificate, or `false`. On CI no test is skipped. */
export const withoutOpenssl = reasonToSkip('openssl')

export interface Certificate {
  key: Buffer
  cert: Buffer
}

/** Makes a certificate. If `directory` is given, also leaves `key.pem` and `cert.pem` there. */
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
