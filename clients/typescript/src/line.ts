import { backoffMs, nextAfter } from "./backoff.js";
import type { BackoffOptions } from "./backoff.js";
import type { ErrorFrame, WelcomeFrame } from "./frames.js";
import type { State, StateDetails } from "./listeners.js";
import type { Outbox } from "./outbox.js";

export interface LineOptions extends BackoffOptions {
  readonly connectTimeoutMs: number;
}

const GOODBYE = 1000;
const BROKEN = 1006;
const SILENT = 4000;
/** Two heartbeats missed, and half of one for a slow line. */
const HEARTBEATS_MAX = 2.5;
/** How long the answer to a ping may take, in ms. Servers answer within 0.25 s. */
const PONG_MAX_MS = 2000;

/** The connection: when to dial, when to wait, when to give up. Pure; times are in ms. */
export class Line {
  state: State = "closed";
  welcome: WelcomeFrame | null = null;
  /** Counts the dials; what belongs to an older one is of no interest. */
  attempt = 0;
  /** The error frame that may explain how this attempt ends. */
  lastError: ErrorFrame | null = null;
  /** When the present state has lasted too long. */
  due = Infinity;
  readonly #options: LineOptions;
  readonly #outbox: Outbox;
  #failures = 0;
  #openings = 0;
  #openedAt = 0;
  /** The last credential was refused: one more is asked for, and no third. */
  #isRefused = false;
  /** The server said when to come back. */
  #isToldToWait = false;
  /** Something has to come in by `due`, or the line is dead. */
  #isTrying = false;

  constructor(options: LineOptions, outbox: Outbox) {
    this.#options = options;
    this.#outbox = outbox;
  }

  isCurrent(attempt: number): boolean {
    return attempt === this.attempt && (this.state === "connecting" || this.state === "open");
  }

  connect(now: number): void {
    if (this.state === "closed") this.#dial(now);
  }

  close(): void {
    if (this.state === "closed") return;
    this.#outbox.act({ do: "hangUp", code: GOODBYE, why: "" });
    this.#stop("app", GOODBYE);
  }

  /**
   * The network or the page is back, perhaps from a long sleep. A wait ends, unless the server
   * itself asked for patience. An open line is tried: its other end may have been gone for hours.
   */
  wake(now: number): void {
    if (this.state === "waiting" && !this.#isToldToWait) this.#dial(now);
    if (this.state !== "open" || this.#isTrying) return;
    this.#isTrying = true;
    this.due = Math.min(this.due, now + PONG_MAX_MS);
    this.#outbox.send({ type: "ping" });
  }

  /** The present state has lasted too long. */
  expire(now: number): void {
    if (this.state === "waiting") this.#dial(now);
    else this.hangUp("silence", BROKEN, now);
  }

  /** Return whether this is the opening after a loss. */
  open(welcome: WelcomeFrame, now: number): boolean {
    this.welcome = welcome;
    this.#isRefused = false;
    this.#openedAt = now;
    this.#openings += 1;
    this.#enter("open", Infinity, { welcome });
    this.hear(now);
    return this.#openings > 1;
  }

  /** The line lives: whatever came, it is as good as a heartbeat. */
  hear(now: number): void {
    if (this.state !== "open" || this.welcome === null) return;
    this.#isTrying = false;
    this.due = now + HEARTBEATS_MAX * this.welcome.heartbeatMs;
  }

  /** Say more about the open connection. */
  tellOpen(details: StateDetails): void {
    const welcome = this.welcome === null ? {} : { welcome: this.welcome };
    this.#outbox.tell("state", "open", { ...welcome, ...details });
  }

  /** End the socket ourselves, and go on as if it had ended with `code`. */
  hangUp(why: string, code: number, now: number): void {
    this.#outbox.act({ do: "hangUp", code: SILENT, why });
    this.lose(code, now);
  }

  /** No socket came to be: there was no credential, or no address. */
  fail(isSignedOut: boolean, problem: unknown, now: number): void {
    if (isSignedOut) this.#stop("signed-out", BROKEN, problem);
    else this.lose(BROKEN, now, problem);
  }

  /** The socket is gone; its code decides what comes next. */
  lose(code: number, now: number, problem?: unknown): void {
    const next = nextAfter(code);
    if (next === "stop") {
      this.#stop("refused", code);
    } else if (next === "renew" && this.#isRefused) {
      this.#stop("signed-out", code);
    } else {
      this.#isRefused = this.#isRefused || next === "renew";
      // A line that was good isn't held to the failures before it.
      if (this.#hasLasted(now) || (next === "resume" && this.state === "open")) this.#failures = 0;
      const toldMs = next === "later" ? (this.lastError?.retryAfterMs ?? 0) : 0;
      this.#wait(toldMs, now, this.#ending(code, problem));
    }
  }

  #dial(now: number): void {
    this.attempt += 1;
    this.lastError = null;
    this.#enter("connecting", now + this.#options.connectTimeoutMs, {});
    const reason = this.#isRefused ? "refused" : "connect";
    this.#outbox.act({ do: "dial", attempt: this.attempt, reason });
  }

  #wait(toldMs: number, now: number, ending: StateDetails): void {
    const retryInMs = toldMs + backoffMs(this.#failures, this.#options);
    this.#failures += 1;
    this.#isToldToWait = toldMs > 0;
    this.#enter("waiting", now + retryInMs, { retryInMs, ...ending });
  }

  #hasLasted(now: number): boolean {
    return this.state === "open" && now - this.#openedAt > this.#options.backoffCapMs;
  }

  #stop(cause: NonNullable<StateDetails["cause"]>, code: number, problem?: unknown): void {
    this.#failures = 0;
    this.#isRefused = false;
    this.#enter("closed", Infinity, { cause, ...this.#ending(code, problem) });
  }

  #ending(code: number, problem: unknown): StateDetails {
    const error = this.lastError === null ? {} : { error: this.lastError };
    return { code, ...error, ...(problem === undefined ? {} : { problem }) };
  }

  #enter(state: State, due: number, details: StateDetails): void {
    this.state = state;
    this.due = due;
    this.#isTrying = false;
    this.#outbox.tell("state", state, details);
  }
}
