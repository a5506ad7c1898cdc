import { Following } from "./following.js";
import { VERSION } from "./frames.js";
import type {
  ErrorFrame,
  RunErrorFrame,
  RunInput,
  ServerFrame,
  ThreadFrame,
  WelcomeFrame,
} from "./frames.js";
import { Line } from "./line.js";
import type { LineOptions } from "./line.js";
import type { State } from "./listeners.js";
import { Orders } from "./orders.js";
import { Outbox, ownError } from "./outbox.js";
import type { Action } from "./outbox.js";

/** What happens. Sockets and credentials belong to one attempt to connect. */
export type Input =
  | { on: "connect" | "close" | "woken" | "tick" }
  | { on: "opened"; attempt: number }
  | { on: "text"; attempt: number; text: string }
  | { on: "ended"; attempt: number; code: number }
  | { on: "failed"; attempt: number; isSignedOut: boolean; problem: unknown }
  | { on: "renewed"; attempt: number; token: string }
  | { on: "subscribe"; threadId: string; after?: string | undefined }
  | { on: "unsubscribe"; threadId: string }
  | { on: "run"; input: RunInput }
  | { on: "abort"; runId: string };

const TOO_FAST = 4429;

/**
 * The client's half of the conversation: what happens in, what is to be done out. Pure: no socket,
 * no timer, no clock; `now` is in ms, from any start, and never goes back.
 */
export class Dialogue {
  readonly #outbox = new Outbox();
  readonly #line: Line;
  readonly #following: Following;
  readonly #orders: Orders;

  constructor(options: LineOptions) {
    this.#line = new Line(options, this.#outbox);
    this.#following = new Following(options, this.#outbox);
    this.#orders = new Orders(options, this.#outbox);
  }

  get state(): State {
    return this.#line.state;
  }

  get welcome(): WelcomeFrame | null {
    return this.#line.welcome;
  }

  /** When a `tick` is due at the latest. */
  get wakeAt(): number {
    const waiters = [...this.#following.waiters, ...this.#orders.waiters];
    return Math.min(this.#line.due, ...waiters.map((waiter) => waiter.retryAt));
  }

  isCurrent(attempt: number): boolean {
    return this.#line.isCurrent(attempt);
  }

  lastId(threadId: string): string | undefined {
    return this.#following.lastId(threadId);
  }

  /** Return what is to be done, in this order, for what happened at `now`. */
  step(input: Input, now: number): Action[] {
    if ("attempt" in input && !this.#line.isCurrent(input.attempt)) return [];
    this.#take(input, now);
    if (this.state === "open") this.#tellCaughtUp();
    else this.#lose();
    return this.#outbox.empty();
  }

  #take(input: Input, now: number): void {
    switch (input.on) {
      case "connect":
        this.#line.connect(now);
        return;
      case "close":
        this.#line.close();
        return;
      case "woken":
        this.#line.wake(now);
        return;
      case "tick":
        this.#tick(now);
        return;
      case "opened":
        this.#outbox.send({ type: "hello", v: VERSION });
        return;
      case "text":
        this.#hear(input.text, now);
        return;
      case "ended":
        this.#line.lose(input.code, now);
        return;
      case "failed":
        this.#line.fail(input.isSignedOut, input.problem, now);
        return;
      case "renewed":
        if (this.state === "open") this.#outbox.send({ type: "auth", token: input.token });
        return;
      case "subscribe":
        this.#following.add(input.threadId, input.after);
        return;
      case "unsubscribe":
        this.#following.remove(input.threadId);
        return;
      case "run":
        this.#following.add(input.input.threadId);
        this.#orders.run(input.input);
        return;
      case "abort":
        this.#orders.abort(input.runId);
    }
  }

  #tick(now: number): void {
    if (now >= this.#line.due) {
      this.#line.expire(now);
      return;
    }
    this.#following.retry(now);
    this.#orders.retry(now);
  }

  #hear(text: string, now: number): void {
    this.#line.hear(now);
    const frame = parseFrame(text);
    if (frame === null) {
      this.#outbox.tell("error", ownError("bad_frame", "the server sent no JSON object"));
    } else if (this.state === "open") {
      this.#answer(frame, now);
    } else if ("type" in frame && frame.type === "welcome") {
      this.#open(frame, now);
    } else if ("type" in frame && frame.type === "error") {
      this.#line.lastError = frame;
    }
  }

  #open(welcome: WelcomeFrame, now: number): void {
    const isReconnect = this.#line.open(welcome, now);
    this.#following.open(isReconnect);
    this.#orders.open(welcome.limits.frameBytes);
  }

  #lose(): void {
    this.#following.lose();
    this.#orders.lose();
  }

  #answer(frame: ServerFrame, now: number): void {
    if ("chunk" in frame) {
      this.#following.apply(frame);
      return;
    }
    switch (frame.type) {
      case "subscribed":
        this.#following.resume(frame);
        return;
      case "accepted":
        this.#orders.accept(frame);
        return;
      case "stopping":
        this.#orders.settleAbort(frame.runId, true);
        return;
      case "thread":
        this.#noteThread(frame);
        return;
      case "auth_expiring":
        this.#outbox.act({ do: "renew", attempt: this.#line.attempt });
        return;
      case "draining":
        this.#line.tellOpen({ drainingUntil: frame.deadlineMs });
        return;
      case "error":
        this.#blame(frame, now);
        return;
      case "RUN_ERROR":
        this.#outbox.tell("error", toError(frame));
        return;
      default: // Heartbeats and confirmations were heard; newer frames are for newer clients.
    }
  }

  #noteThread(frame: ThreadFrame): void {
    this.#outbox.tell("thread", frame);
    if (frame.deleted) this.#following.drop(frame.threadId);
  }

  /** An error says by the ids in it which frame it refuses. */
  #blame(error: ErrorFrame, now: number): void {
    this.#outbox.tell("error", error);
    if (error.runId !== undefined) this.#orders.blame(error.runId, error, now);
    else if (error.threadId !== undefined) this.#following.blame(error.threadId, error, now);
    else this.#blameLine(error, now);
  }

  /** Nobody can say which frame was dropped: a new connection sends again what has no answer. */
  #blameLine(error: ErrorFrame, now: number): void {
    this.#line.lastError = error;
    const isUnanswered = this.#following.hasUnanswered || this.#orders.hasUnanswered;
    if (error.code !== "limit_exceeded" || !isUnanswered) return;
    this.#line.hangUp("too fast", TOO_FAST, now);
  }

  #tellCaughtUp(): void {
    const caughtUp = this.#following.takeCaughtUp();
    if (caughtUp !== null) this.#line.tellOpen({ caughtUp });
  }
}

/** Return the frame, or null for what is none. The server is trusted with the shape. */
function parseFrame(text: string): ServerFrame | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as ServerFrame) : null;
  } catch {
    return null;
  }
}

function toError({ code, message, metadata, runId }: RunErrorFrame): ErrorFrame {
  const about = runId === undefined ? {} : { runId };
  return { ...ownError(code, message, about), errorId: metadata.errorId };
}
