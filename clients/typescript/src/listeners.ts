import type { AgUiEvent, ErrorFrame, Message, ThreadFrame, WelcomeFrame } from "./frames.js";

/** One entry of a thread's log. Entries of a thread come in order, each once. */
export interface Entry {
  /** Opaque. `subscribe(threadId, { after: id })` continues after it. */
  readonly id: string;
  readonly event: AgUiEvent;
  readonly runId: string;
}

/** `waiting` is between two attempts; `closed` lasts until `connect()` is called again. */
export type State = "connecting" | "open" | "waiting" | "closed";

export interface StateDetails {
  /** `open`: the server's welcome. */
  readonly welcome?: WelcomeFrame;
  /**
   * `open`, sent again after a reconnect, when all followed threads have caught up: the number of
   * entries that were missed and have arrived since.
   */
  readonly caughtUp?: number;
  /** `open`, sent again: the server shuts down at this time (ms since 1970). */
  readonly drainingUntil?: number;
  /** `waiting`: time until the next attempt, in ms. */
  readonly retryInMs?: number;
  /** `closed`: `signed-out` without a credential, or `refused` by the server. */
  readonly cause?: "app" | "signed-out" | "refused";
  /** `waiting`, `closed`: close code of the last socket; 1006 when the connection broke. */
  readonly code?: number;
  /** `waiting`, `closed`: the error frame before the end, when there was one. */
  readonly error?: ErrorFrame;
  /** `waiting`, `closed`: the error from `ticket`, `token` or the constructor of the socket. */
  readonly problem?: unknown;
}

/** The listeners of the client. Each `on…` method of the client takes one of these. */
export interface Listeners {
  /** The next entry of a followed thread. */
  event: (threadId: string, entry: Entry) => void;
  /** One of the user's threads changed. A deleted thread is followed no more. */
  thread: (frame: ThreadFrame) => void;
  /**
   * The log no longer has some entries that the app needs. The app replaces the thread's content
   * by `messages`; later entries continue from there. `messages` is null when they don't fit into
   * a frame. Then the client follows the thread no more: the app reads the thread with
   * `fetchThread`, and subscribes after its head.
   */
  gap: (threadId: string, messages: readonly Message[] | null, head: string) => void;
  state: (state: State, details: StateDetails) => void;
  /**
   * An error frame of an open connection. The refusal of a connection is in the state's details.
   * The client itself makes three of the codes, with an empty `errorId`: `log_gap`, `bad_frame` and
   * `too_large`. `log_gap` means missing numbers in a log: a bug of the server, please report it.
   */
  error: (error: ErrorFrame) => void;
}

export type Kind = keyof Listeners;

/** The listeners of one client, by kind. */
export class Audience {
  readonly #listeners = new Map<Kind, Set<Listeners[Kind]>>();

  /** Add a listener; return a function that removes it. */
  add<K extends Kind>(kind: K, listener: Listeners[K]): () => void {
    const all = this.#listeners.get(kind) ?? new Set();
    this.#listeners.set(kind, all.add(listener));
    return () => void all.delete(listener);
  }

  /** Call every listener; an error of one doesn't reach the others. */
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
