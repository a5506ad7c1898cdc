import type { AgUiEvent, ErrorFrame, Message, ThreadFrame, WelcomeFrame } from "./frames.js";

/** One entry of a thread's log. Entries of a thread come in order, each once. */
export interface Entry {
  /** Opaque; `subscribe(threadId, { after: id })` goes on behind it. */
  readonly id: string;
  readonly event: AgUiEvent;
  readonly runId: string;
}

/** `waiting` is between two attempts; `closed` is for good, until `connect()` is called again. */
export type State = "connecting" | "open" | "waiting" | "closed";

export interface StateDetails {
  /** `open`: what the server said. */
  readonly welcome?: WelcomeFrame;
  /**
   * `open`, told again after a reconnect, when all followed threads have reached the head that
   * they had then: how many entries were missed and have come since.
   */
  readonly caughtUp?: number;
  /** `open`, told again: the server shuts down, by then (ms since 1970); the client comes back. */
  readonly drainingUntil?: number;
  /** `waiting`: until the next attempt, in ms. */
  readonly retryInMs?: number;
  /** `closed`: why. `signed-out`: no credential helps; `refused`: the server won't have us. */
  readonly cause?: "app" | "signed-out" | "refused";
  /** `waiting`, `closed`: how the last socket ended; 1006 when it just broke. */
  readonly code?: number;
  /** `waiting`, `closed`: the error frame before the end, when there was one. */
  readonly error?: ErrorFrame;
  /** `waiting`, `closed`: what `ticket`, `token` or the making of the socket threw. */
  readonly problem?: unknown;
}

/** What the client tells. Each `on…` method of the client takes one of these. */
export interface Listeners {
  /** The next entry of a followed thread. */
  event: (threadId: string, entry: Entry) => void;
  /** A thread of the user's changed, followed or not; a deleted one is followed no more. */
  thread: (frame: ThreadFrame) => void;
  /**
   * What the app holds of a thread has a hole that the log can't fill any more: replace it by
   * `messages`; the entries that come next go on from there. Told before any of them. They are
   * null when no frame can hold them. Then the client follows the thread no more. The app reads it
   * (`fetchThread`), and subscribes after its head.
   */
  gap: (threadId: string, messages: readonly Message[] | null, head: string) => void;
  state: (state: State, details: StateDetails) => void;
  /**
   * An error frame of an open connection; what refuses a connection is in the state's details.
   * Three codes can be the client's own, with an empty `errorId`: `log_gap`, when numbers of a log
   * are missing (a bug of the server, please report it), `bad_frame`, and `too_large`.
   */
  error: (error: ErrorFrame) => void;
}

export type Kind = keyof Listeners;

/** Who listens to what. */
export class Audience {
  readonly #listeners = new Map<Kind, Set<Listeners[Kind]>>();

  /** Add a listener; return the function that takes it away again. */
  add<K extends Kind>(kind: K, listener: Listeners[K]): () => void {
    const all = this.#listeners.get(kind) ?? new Set();
    this.#listeners.set(kind, all.add(listener));
    return () => void all.delete(listener);
  }

  /** Tell everyone; what a listener throws is its own trouble, and nobody else's. */
  tell<K extends Kind>(kind: K, ...news: Parameters<Listeners[K]>): void {
    for (const listener of [...(this.#listeners.get(kind) ?? [])]) {
      try {
        (listener as (...news: unknown[]) => void)(...news);
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}
