import type { AcceptedFrame, ClientFrame, ErrorFrame } from "./frames.js";
import type { Kind, Listeners } from "./listeners.js";

/**
 * Why a credential is asked for: for an attempt to connect, because the one in use ends within a
 * minute, or because the last one was refused (a cached one is of no use then).
 */
export type CredentialReason = "connect" | "expiring" | "refused";

/** What the app is to hear. */
type News = { [K in Kind]: { do: "tell"; kind: K; news: Parameters<Listeners[K]> } }[Kind];

/** What is to be done. Sockets and credentials belong to one attempt to connect. */
export type Action =
  | { do: "dial"; attempt: number; reason: CredentialReason }
  | { do: "send"; text: string }
  | { do: "hangUp"; code: number; why: string }
  | { do: "renew"; attempt: number }
  | { do: "accepted"; frame: AcceptedFrame }
  | { do: "aborted"; runId: string; isKnown: boolean }
  | { do: "refused"; what: "run" | "abort"; runId: string; error: ErrorFrame }
  | News;

/** Collects what is to be done, in order. */
export class Outbox {
  #actions: Action[] = [];

  act(action: Action): void {
    this.#actions.push(action);
  }

  send(frame: ClientFrame): void {
    this.act({ do: "send", text: JSON.stringify(frame) });
  }

  tell<K extends Kind>(kind: K, ...news: Parameters<Listeners[K]>): void {
    this.act({ do: "tell", kind, news } as News);
  }

  /** Return what has come together, and begin anew. */
  empty(): Action[] {
    const actions = this.#actions;
    this.#actions = [];
    return actions;
  }
}

/** Return an error frame of the client's own. */
export function ownError(
  code: string,
  message: string,
  about: Partial<ErrorFrame> = {},
): ErrorFrame {
  return { type: "error", code, message, errorId: "", retryable: false, ...about };
}
