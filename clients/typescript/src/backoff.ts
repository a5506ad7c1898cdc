/** How a socket's close code decides what comes next. */
export type Next = "resume" | "later" | "renew" | "stop";

const NEXT: Readonly<Record<number, Next>> = {
  1000: "resume",
  1001: "resume",
  1006: "resume",
  4409: "resume",
  4401: "renew",
  // What would be refused again as often as it is sent.
  1003: "stop",
  1008: "stop",
  1009: "stop",
  4403: "stop",
};

/** Return what follows a close: come back at once, later, with another credential, or never. */
export function nextAfter(code: number): Next {
  return NEXT[code] ?? "later";
}

export interface BackoffOptions {
  readonly backoffBaseMs: number;
  readonly backoffCapMs: number;
  /** From 0 to 1, exclusive, as `Math.random`. */
  readonly random: () => number;
}

/**
 * Return how long to wait after so many failures, in ms: up to the base doubled for each, at most
 * the cap. All of it is jitter, so that clients that lost one server don't come back as one.
 */
export function backoffMs(failures: number, options: BackoffOptions): number {
  return options.random() * Math.min(options.backoffCapMs, options.backoffBaseMs * 2 ** failures);
}

/** Something the server refused for now. */
export interface Waiter {
  /** When to ask again, in ms. */
  retryAt: number;
  tries: number;
}

export function isTime(waiter: Waiter, now: number): boolean {
  if (now < waiter.retryAt) return false;
  waiter.retryAt = Infinity;
  return true;
}

/** Have `waiter` ask again, not before the server wants to be asked. */
export function postpone(
  waiter: Waiter,
  error: { readonly retryAfterMs?: number },
  now: number,
  options: BackoffOptions,
): void {
  waiter.retryAt = now + (error.retryAfterMs ?? 0) + backoffMs(waiter.tries, options);
  waiter.tries += 1;
}
