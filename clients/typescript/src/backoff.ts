/** What the client does after a close code. */
export type Next = "resume" | "later" | "renew" | "stop";

const NEXT: Readonly<Record<number, Next>> = {
  1000: "resume",
  1001: "resume",
  1006: "resume",
  4409: "resume",
  4401: "renew",
  // These would be refused again each time.
  1003: "stop",
  1008: "stop",
  1009: "stop",
  4403: "stop",
};

/** Return what follows a close: reconnect at once, later, with a new credential, or never. */
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
 * Return the wait after a number of failures, in ms. The upper bound doubles per failure, up to the
 * cap. The wait is random below that bound, so that clients of one server don't return at once.
 */
export function backoffMs(failures: number, options: BackoffOptions): number {
  return options.random() * Math.min(options.backoffCapMs, options.backoffBaseMs * 2 ** failures);
}

/** A request that the server refused for now. */
export interface Waiter {
  /** Time of the next try, in ms. */
  retryAt: number;
  tries: number;
}

export function isTime(waiter: Waiter, now: number): boolean {
  if (now < waiter.retryAt) return false;
  waiter.retryAt = Infinity;
  return true;
}

/** Schedule the next try of `waiter`, not before the time that the server named. */
export function postpone(
  waiter: Waiter,
  error: { readonly retryAfterMs?: number },
  now: number,
  options: BackoffOptions,
): void {
  waiter.retryAt = now + (error.retryAfterMs ?? 0) + backoffMs(waiter.tries, options);
  waiter.tries += 1;
}
