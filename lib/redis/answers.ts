// Waiting for other members to say that what they were told to end is gone: bounded, and told again, for a message may be lost.
import type { FastifyBaseLogger } from 'fastify'
import { deferred, within } from '../wait.ts'
import type { Link } from './link.ts'

export interface Question {
  /** Who was told. */
  readonly member: string
  /** What the answer names. */
  readonly number: number
  /** What PUBLISH returned. */
  readonly heard: number
  readonly channel: string
  readonly message: string
}

const REPEAT_MS = 1_000

export class Answers {
  readonly #link: Link
  readonly #timeout: number
  readonly #log: FastifyBaseLogger
  readonly #pending = new Map<string, Question & { readonly settle: () => void }>()
  #repeating: NodeJS.Timeout | undefined

  constructor (link: Link, timeout: number, log: FastifyBaseLogger) {
    this.#link = link
    this.#timeout = timeout
    this.#log = log
  }

  /** Resolves when it is answered, when there is nobody to answer it, or when this process could not hear the answer. */
  async of (question: Question): Promise<void> {
    if (this.#nobody(question.heard) || !this.#link.hears) return
    const { promise, resolve } = deferred<void>()
    const id = idOf(question)
    this.#pending.set(id, { ...question, settle: resolve })
    this.#repeating ??= setInterval(() => this.#repeat(), REPEAT_MS).unref()
    if (!await within(promise, this.#timeout)) {
      this.#log.warn({ member: question.member }, 'another process did not end a stream within replaceTimeout, and is waited for no longer')
    }
    this.#pending.delete(id)
    if (this.#pending.size > 0) return
    clearInterval(this.#repeating)
    this.#repeating = undefined
  }

  answered (member: string, number: number): void {
    this.#pending.get(idOf({ member, number }))?.settle()
  }

  giveUp (): void {
    for (const { settle } of this.#pending.values()) settle()
  }

  #repeat (): void {
    for (const { channel, message, settle } of this.#pending.values()) {
      if (this.#link.sends) this.#link.publish(channel, message).then(heard => { if (this.#nobody(heard)) settle() }, () => {})
    }
  }

  // A process that is gone has no subscription.
  #nobody (heard: number): boolean {
    return heard === 0 && this.#link.countsHearers
  }
}

function idOf ({ member, number }: Pick<Question, 'member' | 'number'>): string {
  return `${member} ${number}`
}
