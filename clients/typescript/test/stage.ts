import { Dialogue } from "../src/dialogue.js";
import type { Input } from "../src/dialogue.js";
import type { ClientFrame, ErrorFrame, ServerFrame, WelcomeFrame } from "../src/frames.js";
import type { Entry, Kind, Listeners, State, StateDetails } from "../src/listeners.js";
import type { LineOptions } from "../src/line.js";
import type { Action } from "../src/outbox.js";

export const BASE_MS = 100;
export const CAP_MS = 1000;
export const HEARTBEAT_MS = 2000;

export const WELCOME: WelcomeFrame = {
  type: "welcome",
  v: 1,
  connectionId: "c1",
  userId: "u1",
  heartbeatMs: HEARTBEAT_MS,
  limits: {
    connectionsPerUser: 20,
    threadsPerUser: 20,
    runsPerUser: 5,
    queuedRunsPerThread: 5,
    framesPerMinute: 600,
    requestsPerUser: 16,
    requestBytes: 67_108_864,
    chatFrameBytes: 16_777_216,
    frameBytes: 1024,
    eventBytes: 1024,
    runBytes: 65536,
    runEvents: 1000,
    storedThreadsPerUser: 10_000,
    storedBytesPerUser: 1 << 30,
    sendTimeoutMs: 20_000,
  },
  capabilities: {
    transport: { streaming: true, websocket: true, resumable: true },
    nodes: 1,
  },
  tokenExpiresAt: null,
  activeRuns: [],
};

export function error(code: string, about: Partial<ErrorFrame> = {}): ErrorFrame {
  return { type: "error", code, message: code, errorId: "e1", retryable: false, ...about };
}

/** A dialogue on a stage: the test is clock, socket and app. */
export class Stage {
  now = 0;
  attempt = 0;
  /** What random numbers are, from here on. */
  luck = 0.5;
  readonly dialogue: Dialogue;
  #done: Action[] = [];

  constructor(options: Partial<LineOptions> = {}) {
    this.dialogue = new Dialogue({
      backoffBaseMs: BASE_MS,
      backoffCapMs: CAP_MS,
      connectTimeoutMs: 5000,
      random: () => this.luck,
      ...options,
    });
  }

  step(input: Input): this {
    const actions = this.dialogue.step(input, this.now);
    for (const action of actions) if (action.do === "dial") this.attempt = action.attempt;
    this.#done.push(...actions);
    return this;
  }

  /** Let the server say something. */
  hear(...frames: ServerFrame[]): this {
    for (const frame of frames) {
      this.step({ on: "text", attempt: this.attempt, text: JSON.stringify(frame) });
    }
    return this;
  }

  entries(threadId: string, epoch: string, ...numbers: number[]): this {
    for (const n of numbers) {
      const chunk = { type: "CUSTOM", name: "n", value: n };
      this.hear({ id: `${epoch}-${String(n)}`, chunk, threadId, runId: "r1" });
    }
    return this;
  }

  subscribed(threadId: string, head: string): this {
    return this.hear({ type: "subscribed", threadId, head, recovered: true });
  }

  /** Let the socket open and the server welcome it. */
  open(welcome: WelcomeFrame = WELCOME): this {
    return this.step({ on: "opened", attempt: this.attempt }).hear(welcome);
  }

  connect(): this {
    return this.step({ on: "connect" }).open();
  }

  end(code: number): this {
    return this.step({ on: "ended", attempt: this.attempt, code });
  }

  /** Let time pass until the dialogue wants to be woken. */
  wake(): this {
    this.now = this.dialogue.wakeAt;
    return this.step({ on: "tick" });
  }

  later(ms: number): this {
    this.now += ms;
    return this.step({ on: "tick" });
  }

  /** Return what was done since the last look. */
  done(): Action[] {
    const done = this.#done;
    this.#done = [];
    return done;
  }

  sent(): ClientFrame[] {
    return this.done().flatMap((action) =>
      action.do === "send" ? [JSON.parse(action.text) as ClientFrame] : [],
    );
  }

  told<K extends Kind>(kind: K): Parameters<Listeners[K]>[] {
    return this.done().flatMap((action) =>
      action.do === "tell" && action.kind === kind ? [action.news as Parameters<Listeners[K]>] : [],
    );
  }

  states(): [State, StateDetails][] {
    return this.told("state");
  }

  heardIds(): string[] {
    return this.told("event").map(([, entry]: [string, Entry]) => entry.id);
  }

  dials(): Extract<Action, { do: "dial" }>[] {
    return this.done().filter((action) => action.do === "dial");
  }
}
