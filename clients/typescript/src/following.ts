import { isTime, postpone } from "./backoff.js";
import type { BackoffOptions, Waiter } from "./backoff.js";
import type { EnvelopeFrame, ErrorFrame, SubscribedFrame } from "./frames.js";
import { ownError } from "./outbox.js";
import type { Outbox } from "./outbox.js";
import { Thread } from "./thread.js";

/** The threads that are followed, whether or not there is a connection. Pure; times are in ms. */
export class Following {
  readonly #options: BackoffOptions;
  readonly #outbox: Outbox;
  readonly #threads = new Map<string, Thread>();
  /** How many answers to `subscribe` are still to come on this connection, by thread. */
  readonly #asked = new Map<string, number>();
  #isOpen = false;
  /** How many entries came while catching up after a reconnect; null when not catching up. */
  #caughtUp: number | null = null;

  constructor(options: BackoffOptions, outbox: Outbox) {
    this.#options = options;
    this.#outbox = outbox;
  }

  get waiters(): Iterable<Waiter> {
    return this.#threads.values();
  }

  get hasUnanswered(): boolean {
    return this.#asked.size > 0;
  }

  lastId(threadId: string): string | undefined {
    return this.#threads.get(threadId)?.after;
  }

  /** There is a connection: ask for every thread, from where the app has it. */
  open(isReconnect: boolean): void {
    this.#isOpen = true;
    this.#caughtUp = isReconnect ? 0 : null;
    for (const threadId of this.#threads.keys()) this.#ask(threadId);
  }

  /** The connection is gone, and with it what was asked and promised on it. */
  lose(): void {
    this.#isOpen = false;
    this.#caughtUp = null;
    this.#asked.clear();
    for (const thread of this.#threads.values()) thread.lose();
  }

  add(threadId: string, after?: string): void {
    if (this.#threads.has(threadId) && after === undefined) return;
    this.#threads.set(threadId, new Thread(after));
    if (this.#isOpen) this.#ask(threadId);
  }

  remove(threadId: string): void {
    if (this.#threads.delete(threadId) && this.#isOpen) {
      this.#outbox.send({ type: "unsubscribe", threadId });
    }
  }

  /** The server lets a thread go, or won't have it followed: there is nothing to take back. */
  drop(threadId: string): void {
    this.#threads.delete(threadId);
  }

  /** Ask again for what the server refused for now, when it is time. */
  retry(now: number): void {
    for (const [threadId, thread] of this.#threads) if (isTime(thread, now)) this.#ask(threadId);
  }

  apply({ id, threadId, runId, chunk: event }: EnvelopeFrame): void {
    const thread = this.#answered(threadId);
    if (thread === undefined) return;
    const verdict = thread.judge(id);
    if (verdict === "gap") this.#mend(threadId, thread, id);
    if (verdict !== "next") return;
    const wasMissed = thread.apply(id);
    if (wasMissed && this.#caughtUp !== null) this.#caughtUp += 1;
    this.#outbox.tell("event", threadId, { id, event, runId });
  }

  resume({ threadId, head, recovered, messages }: SubscribedFrame): void {
    this.#countAnswer(threadId);
    const thread = this.#answered(threadId);
    if (thread === undefined) return;
    if (recovered) {
      thread.resume(head);
      return;
    }
    if (messages === undefined) this.drop(threadId);
    else thread.restart();
    this.#outbox.tell("gap", threadId, messages ?? null, head);
  }

  /** The server refuses a thread, for now or for good. */
  blame(threadId: string, error: ErrorFrame, now: number): void {
    if (!this.#asked.has(threadId)) return;
    this.#countAnswer(threadId);
    const thread = this.#answered(threadId);
    if (thread === undefined) return;
    if (error.retryable) postpone(thread, error, now, this.#options);
    else this.drop(threadId);
  }

  /** Return once, when nothing is missing any more after a reconnect, how much was; else null. */
  takeCaughtUp(): number | null {
    const caughtUp = this.#caughtUp;
    if (caughtUp === null) return null;
    for (const thread of this.#threads.values()) if (!thread.isCaughtUp) return null;
    this.#caughtUp = null;
    return caughtUp;
  }

  #ask(threadId: string): void {
    const after = this.#threads.get(threadId)?.after;
    this.#asked.set(threadId, (this.#asked.get(threadId) ?? 0) + 1);
    this.#outbox.send({ type: "subscribe", threadId, ...(after === undefined ? {} : { after }) });
  }

  #countAnswer(threadId: string): void {
    const rest = (this.#asked.get(threadId) ?? 0) - 1;
    if (rest > 0) this.#asked.set(threadId, rest);
    else this.#asked.delete(threadId);
  }

  /** Return the thread, unless what comes was sent for an older `subscribe` than the last. */
  #answered(threadId: string): Thread | undefined {
    return this.#asked.has(threadId) ? undefined : this.#threads.get(threadId);
  }

  /** Numbers are missing: ask once more from where they end, and let go where that didn't help. */
  #mend(threadId: string, thread: Thread, id: string): void {
    const message = `${id} came after ${thread.after ?? "the start"}`;
    this.#outbox.tell("error", ownError("log_gap", message, { threadId }));
    if (thread.noteGap()) this.#ask(threadId);
    else this.remove(threadId);
  }
}
