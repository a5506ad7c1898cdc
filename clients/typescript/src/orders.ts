import { isTime, postpone } from "./backoff.js";
import type { BackoffOptions, Waiter } from "./backoff.js";
import type { AbortFrame, AcceptedFrame, ErrorFrame, RunInput } from "./frames.js";
import { ownError } from "./outbox.js";
import type { Outbox } from "./outbox.js";

interface Order<F> extends Waiter {
  readonly frame: F;
}

/** Errors that pass without anyone's doing: what they refused is sent again. */
const PASSING = new Set(["unavailable", "going_away"]);

/** The runs and aborts that the server has not answered yet. Pure; times are in ms. */
export class Orders {
  readonly #options: BackoffOptions;
  readonly #outbox: Outbox;
  readonly #runs = new Map<string, Order<RunInput>>();
  readonly #aborts = new Map<string, Order<AbortFrame>>();
  #isOpen = false;
  #frameBytes = Infinity;

  constructor(options: BackoffOptions, outbox: Outbox) {
    this.#options = options;
    this.#outbox = outbox;
  }

  get waiters(): Waiter[] {
    return [...this.#runs.values(), ...this.#aborts.values()];
  }

  get hasUnanswered(): boolean {
    return this.#runs.size + this.#aborts.size > 0;
  }

  /** There is a connection: send what has no answer. A run is executed once however often sent. */
  open(frameBytes: number): void {
    this.#isOpen = true;
    this.#frameBytes = frameBytes;
    for (const run of this.#runs.values()) this.#sendRun(run.frame);
    for (const abort of this.#aborts.values()) this.#outbox.send(abort.frame);
  }

  lose(): void {
    this.#isOpen = false;
    for (const waiter of this.waiters) waiter.retryAt = Infinity;
  }

  run(input: RunInput): void {
    this.#runs.set(input.runId, { frame: input, retryAt: Infinity, tries: 0 });
    if (this.#isOpen) this.#sendRun(input);
  }

  abort(runId: string): void {
    const frame: AbortFrame = { type: "abort", runId };
    this.#aborts.set(runId, { frame, retryAt: Infinity, tries: 0 });
    if (this.#isOpen) this.#outbox.send(frame);
  }

  accept(frame: AcceptedFrame): void {
    if (this.#runs.delete(frame.runId)) this.#outbox.act({ do: "accepted", frame });
  }

  /** An abort has its answer: the run is known and stops, or there is none. */
  settleAbort(runId: string, isKnown: boolean): void {
    if (this.#aborts.delete(runId)) this.#outbox.act({ do: "aborted", runId, isKnown });
  }

  /** Send again what the server refused for now, when it is time. */
  retry(now: number): void {
    for (const run of this.#runs.values()) if (isTime(run, now)) this.#sendRun(run.frame);
    for (const abort of this.#aborts.values()) {
      if (isTime(abort, now)) this.#outbox.send(abort.frame);
    }
  }

  /** The server refuses a run or an abort, for now or for good. */
  blame(runId: string, error: ErrorFrame, now: number): void {
    if (error.code === "not_found") {
      this.settleAbort(runId, false); // A run is never not found: it is what a run frame makes.
      return;
    }
    const what = this.#runs.has(runId) ? "run" : "abort";
    const order = this.#kind(what).get(runId);
    if (order === undefined) return;
    if (PASSING.has(error.code)) postpone(order, error, now, this.#options);
    else this.#refuse(what, runId, error);
  }

  /** Send a run, but none that would cost the connection: too large a frame ends it. */
  #sendRun(input: RunInput): void {
    const { runId } = input;
    const text = JSON.stringify(input);
    const bytes = new TextEncoder().encode(text).length;
    if (bytes <= this.#frameBytes) {
      this.#outbox.act({ do: "send", text });
      return;
    }
    const most = String(this.#frameBytes);
    const message = `a frame may have ${most} bytes, this one has ${String(bytes)}`;
    const error = ownError("too_large", message, { runId });
    this.#outbox.tell("error", error);
    this.#refuse("run", runId, error);
  }

  #refuse(what: "run" | "abort", runId: string, error: ErrorFrame): void {
    this.#kind(what).delete(runId);
    this.#outbox.act({ do: "refused", what, runId, error });
  }

  #kind(what: "run" | "abort"): Map<string, Waiter> {
    return what === "run" ? this.#runs : this.#aborts;
  }
}
