import { SignedOut } from "./credential.js";
import type { Credential } from "./credential.js";
import { Dialogue } from "./dialogue.js";
import type { Input } from "./dialogue.js";
import { SUBPROTOCOL } from "./frames.js";
import type { AcceptedFrame, ErrorFrame, RunInput, WelcomeFrame } from "./frames.js";
import { Audience } from "./listeners.js";
import type { Listeners, State } from "./listeners.js";
import type { Action, CredentialReason } from "./outbox.js";
import { newPledge, settle } from "./pledge.js";
import type { Pledge } from "./pledge.js";
import type { WebSocketLike, WebSocketType } from "./socket.js";
import { checkLogId, checkWireId } from "./thread.js";

export interface ClientOptions {
  /** `wss://host/ws` or `/ws/{agent}`. `https:` and paths relative to the page are allowed. */
  readonly url: string | URL;
  /** Returns a single-use ticket from `POST /api/tickets`; called for each attempt. */
  readonly ticket?: Credential;
  /**
   * Returns a JWT. It is sent as subprotocol `bearer.<jwt>` when there is no `ticket`, and it
   * renews the connection before its credential expires. Without both, the cookie is used.
   */
  readonly token?: Credential;
  /** Used in place of `globalThis.WebSocket`, which Node has from version 22. */
  readonly WebSocket?: WebSocketType;
  /** Longest wait before the first new attempt, in ms; each failure doubles it. Default 500. */
  readonly backoffBaseMs?: number;
  /** Longest wait before any attempt, in ms. Default 15,000. */
  readonly backoffCapMs?: number;
  /** Time from asking for a credential to the server's welcome, in ms. Default 15,000. */
  readonly connectTimeoutMs?: number;
}

/** The server refused a run or an abort; `frame` says why. */
export class RunRefused extends Error {
  override name = "RunRefused";
  readonly frame: ErrorFrame;

  constructor(frame: ErrorFrame) {
    super(frame.message);
    this.frame = frame;
  }
}

/** One connection to the gateway, which reconnects until `close()`. */
export class IsolaneClient {
  readonly #options: ClientOptions;
  readonly #dialogue: Dialogue;
  readonly #audience = new Audience();
  readonly #runs = new Map<string, Pledge<AcceptedFrame>>();
  readonly #aborts = new Map<string, Pledge<boolean>>();
  readonly #inputs: Input[] = [];
  #isBusy = false;
  #socket: WebSocketLike | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(options: ClientOptions) {
    const { backoffBaseMs = 500, backoffCapMs = 15_000, connectTimeoutMs = 15_000 } = options;
    const limits = { backoffBaseMs, backoffCapMs, connectTimeoutMs };
    this.#options = options;
    this.#dialogue = new Dialogue({ ...limits, random: Math.random });
  }

  /** The state of the connection. */
  get state(): State {
    return this.#dialogue.state;
  }

  /** The server's welcome of the latest connection. */
  get welcome(): WelcomeFrame | null {
    return this.#dialogue.welcome;
  }

  /** Connect, and stay connected until `close()`. A second call does nothing. */
  connect(): void {
    for (const type of WAKING) page.addEventListener?.(type, this.#onWoken);
    page.document?.addEventListener("visibilitychange", this.#onWoken);
    this.#feed({ on: "connect" });
  }

  /** Disconnect. Followed threads and unanswered runs wait for the next `connect()`. */
  close(): void {
    this.#feed({ on: "close" });
  }

  /**
   * Follow a thread, strictly after the id `after`, or from the start of its log. A thread that is
   * followed already stays as it is; with `after` its entries are delivered again from there.
   * Works in every state; throws `TypeError` for an id that the protocol doesn't allow.
   */
  subscribe(threadId: string, { after }: { after?: string | undefined } = {}): void {
    checkWireId("threadId", threadId);
    if (after !== undefined) checkLogId("after", after);
    this.#feed({ on: "subscribe", threadId, after });
  }

  /** Stop following a thread. Its runs go on. */
  unsubscribe(threadId: string): void {
    this.#feed({ on: "unsubscribe", threadId });
  }

  /** The id of the last delivered entry of a followed thread, or the id where it begins. */
  lastId(threadId: string): string | undefined {
    return this.#dialogue.lastId(threadId);
  }

  /**
   * Run the agent, and follow the run's thread. The run is sent again after a reconnect until the
   * server has accepted it; the server never runs it twice. Resolves when the run is accepted.
   * Rejects with `RunRefused`; a rejection that nobody handles is not reported as an error.
   */
  run(input: RunInput): Promise<AcceptedFrame> {
    checkWireId("threadId", input.threadId);
    checkWireId("runId", input.runId);
    return this.#pledge(this.#runs, input.runId, { on: "run", input });
  }

  /**
   * Stop a run of any device; its end event follows. Resolves to true when the server stops the
   * run or it has ended, and to false when there is no such run.
   */
  abort(runId: string): Promise<boolean> {
    checkWireId("runId", runId);
    return this.#pledge(this.#aborts, runId, { on: "abort", runId });
  }

  /** Call a listener for each entry. Like each `on…`, it returns a function that removes it. */
  onEvent(listener: Listeners["event"]): () => void {
    return this.#audience.add("event", listener);
  }

  /** Call a listener for each change of the user's threads. */
  onThread(listener: Listeners["thread"]): () => void {
    return this.#audience.add("thread", listener);
  }

  /** Call a listener for each gap in a thread, before any later entry. */
  onGap(listener: Listeners["gap"]): () => void {
    return this.#audience.add("gap", listener);
  }

  /** Call a listener for each state of the connection. */
  onState(listener: Listeners["state"]): () => void {
    return this.#audience.add("state", listener);
  }

  /** Call a listener for each refusal of the server. */
  onError(listener: Listeners["error"]): () => void {
    return this.#audience.add("error", listener);
  }

  readonly #onWoken = (): void => {
    // A hidden page may sleep before an answer comes.
    if (page.document?.visibilityState !== "hidden") this.#feed({ on: "woken" });
  };

  #stopListening(): void {
    for (const type of WAKING) page.removeEventListener?.(type, this.#onWoken);
    page.document?.removeEventListener("visibilitychange", this.#onWoken);
  }

  #pledge<T>(all: Map<string, Pledge<T>>, runId: string, input: Input): Promise<T> {
    const given = all.get(runId) ?? newPledge<T>();
    if (!all.has(runId)) {
      all.set(runId, given);
      this.#feed(input);
    }
    return given.promise;
  }

  /** Act on the dialogue's decisions; calls from inside a listener wait until these are done. */
  #feed(input: Input): void {
    this.#inputs.push(input);
    if (this.#isBusy) return;
    this.#isBusy = true;
    try {
      for (let next = this.#inputs.shift(); next !== undefined; next = this.#inputs.shift()) {
        for (const action of this.#dialogue.step(next, performance.now())) this.#carryOut(action);
      }
    } finally {
      this.#isBusy = false;
      this.#setTimer();
    }
    if (this.state === "closed") this.#stopListening();
  }

  #setTimer(): void {
    clearTimeout(this.#timer);
    if (this.#dialogue.wakeAt === Infinity) return;
    const delayMs = Math.max(0, this.#dialogue.wakeAt - performance.now());
    this.#timer = setTimeout(() => {
      this.#feed({ on: "tick" });
    }, delayMs);
  }

  #carryOut(action: Action): void {
    switch (action.do) {
      case "dial":
        void this.#dial(action.attempt, action.reason);
        return;
      case "send":
        this.#socket?.send(action.text);
        return;
      case "hangUp":
        this.#socket?.close(action.code, action.why);
        return;
      case "renew":
        void this.#renew(action.attempt);
        return;
      case "accepted":
        settle(this.#runs, action.frame.runId)?.resolve(action.frame);
        return;
      case "aborted":
        settle(this.#aborts, action.runId)?.resolve(action.isKnown);
        return;
      case "refused":
        this.#refuse(action.what, action.runId, action.error);
        return;
      case "tell":
        this.#audience.tell(action.kind, ...action.news);
    }
  }

  #refuse(what: "run" | "abort", runId: string, error: ErrorFrame): void {
    const pledge = what === "run" ? settle(this.#runs, runId) : settle(this.#aborts, runId);
    pledge?.reject(new RunRefused(error));
  }

  async #dial(attempt: number, reason: CredentialReason): Promise<void> {
    this.#socket = null;
    try {
      const { url, protocols } = await this.#address(reason);
      if (this.#dialogue.isCurrent(attempt)) this.#socket = this.#listen(attempt, url, protocols);
    } catch (problem) {
      this.#feed({ on: "failed", attempt, isSignedOut: problem instanceof SignedOut, problem });
    }
  }

  async #address(reason: CredentialReason): Promise<{ url: string; protocols: string[] }> {
    const { ticket, token } = this.#options;
    const url = new URL(this.#options.url, page.location?.href);
    url.protocol = url.protocol.replace("http", "ws");
    const protocols = [SUBPROTOCOL];
    if (ticket !== undefined) url.searchParams.set("ticket", await ticket(reason));
    else if (token !== undefined) protocols.push(`bearer.${await token(reason)}`);
    return { url: url.href, protocols };
  }

  /** Open a socket. The dialogue ignores what the socket says after its attempt has ended. */
  #listen(attempt: number, url: string, protocols: string[]): WebSocketLike {
    const socket = new (this.#options.WebSocket ?? WebSocket)(url, protocols);
    socket.onopen = () => {
      this.#feed({ on: "opened", attempt });
    };
    socket.onmessage = ({ data }: { data: unknown }) => {
      if (typeof data === "string") this.#feed({ on: "text", attempt, text: data });
    };
    socket.onclose = ({ code }: { code: number }) => {
      this.#feed({ on: "ended", attempt, code });
    };
    socket.onerror = () => undefined; // A close follows, and says what there is to say.
    return socket;
  }

  /** Renew the credential if the app can; otherwise the socket expires and is opened again. */
  async #renew(attempt: number): Promise<void> {
    try {
      const token = await this.#options.token?.("expiring");
      if (token !== undefined) this.#feed({ on: "renewed", attempt, token });
    } catch {
      return;
    }
  }
}

/** Events of a window whose page or network comes back. Hiding a page is handled elsewhere. */
const WAKING = ["online", "pageshow", "focus"] as const;

type Listening = (type: string, listener: () => void) => void;

/** Objects of a browser's page. Node has none of them, and a worker has no document. */
const page = globalThis as {
  addEventListener?: Listening;
  removeEventListener?: Listening;
  location?: { href: string };
  document?: {
    readonly visibilityState: string;
    addEventListener: Listening;
    removeEventListener: Listening;
  };
};
