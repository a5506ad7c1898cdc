// Generated from the server's schema by `npm run generate`. Do not edit.

export const SUBPROTOCOL = "agui.v1";
export const VERSION = 1;

/** The client asks for control frames from now on. */
export interface HelloFrame {
  readonly type: "hello";
  readonly v: 1;
}

/** The client follows a thread, strictly after an id.

    Without an id from the start of its log. */
export interface SubscribeFrame {
  readonly type: "subscribe";
  readonly threadId: string;
  /** Place of an entry in its thread's log, `<epoch>-<seq>`; opaque to clients. */
  readonly after?: string;
}

/** The client stops following a thread. */
export interface UnsubscribeFrame {
  readonly type: "unsubscribe";
  readonly threadId: string;
}

/** The client brings a newer token of the same user. */
export interface AuthFrame {
  readonly type: "auth";
  readonly token: string;
}

/** The client asks for a pong that carries the same `t`. */
export interface PingFrame {
  readonly type: "ping";
  readonly t?: unknown;
}

/** The client stops one of the user's runs. */
export interface AbortFrame {
  readonly type: "abort";
  readonly runId: string;
}

/** The client runs the agent: AG-UI's RunAgentInput, the one client frame without a `type`. */
export interface RunInput {
  readonly threadId: string;
  readonly runId: string;
  readonly messages: readonly Message[];
  readonly state?: unknown;
  readonly tools?: readonly unknown[] | null;
  readonly context?: readonly unknown[] | null;
  readonly forwardedProps?: unknown;
  readonly resume?: readonly unknown[] | null;
  readonly parentRunId?: string | null;
  readonly [field: string]: unknown;
}

/** An AG-UI message; its role says which other fields it has. */
export interface Message {
  readonly id: string;
  readonly role: string;
  readonly content?: unknown;
  readonly [field: string]: unknown;
}

/** The answer to hello. */
export interface WelcomeFrame {
  readonly type: "welcome";
  readonly v: 1;
  readonly connectionId: string;
  readonly userId: string;
  readonly heartbeatMs: number;
  readonly limits: Limits;
  readonly capabilities: Capabilities;
  readonly tokenExpiresAt: number | null;
  readonly activeRuns: readonly ActiveRun[];
}

/** The limits that are enforced. */
export interface Limits {
  readonly connectionsPerUser: number;
  readonly threadsPerUser: number;
  readonly runsPerUser: number;
  readonly queuedRunsPerThread: number;
  readonly framesPerMinute: number;
  readonly requestsPerUser: number;
  readonly frameBytes: number;
  readonly requestBytes: number;
  readonly chatFrameBytes: number;
  readonly eventBytes: number;
  readonly runBytes: number;
  readonly runEvents: number;
  readonly storedThreadsPerUser: number;
  readonly storedBytesPerUser: number;
  readonly sendTimeoutMs: number;
}

/** AG-UI's capabilities that are the gateway's, and how many processes serve its users. */
export interface Capabilities {
  readonly transport: Transport;
  readonly nodes: number;
}

/** Capabilities of the transport, in AG-UI's words. */
export interface Transport {
  readonly streaming: boolean;
  readonly websocket: boolean;
  readonly resumable: boolean;
}

/** An active run, and the head of its thread's log. */
export interface ActiveRun {
  readonly threadId: string;
  readonly runId: string;
  /** Place of an entry in its thread's log, `<epoch>-<seq>`; opaque to clients. */
  readonly head: string;
}

/** The thread's entries follow.

    When `recovered` is false there was a gap: they follow after `messages`, or without those, after
    a read of the thread. */
export interface SubscribedFrame {
  readonly type: "subscribed";
  readonly threadId: string;
  /** Place of an entry in its thread's log, `<epoch>-<seq>`; opaque to clients. */
  readonly head: string;
  readonly recovered: boolean;
  readonly messages?: readonly Message[];
}

/** No more entries of the thread follow. */
export interface UnsubscribedFrame {
  readonly type: "unsubscribed";
  readonly threadId: string;
}

/** The newer token is in force. */
export interface AuthOkFrame {
  readonly type: "auth_ok";
  readonly expiresAt: number | null;
}

/** The credential expires soon, and the connection closes with it. */
export interface AuthExpiringFrame {
  readonly type: "auth_expiring";
  /** Milliseconds since 1970. */
  readonly expiresAt: number;
}

/** The answer to a client's ping. */
export interface PongFrame {
  readonly type: "pong";
  readonly t?: unknown;
}

/** The server has accepted the run; comes before the run's first entry. */
export interface AcceptedFrame {
  readonly type: "accepted";
  readonly threadId: string;
  readonly runId: string;
  readonly requestId: string;
  readonly disposition: "attached" | "queued" | "started";
  /** Of a queued run; 1 is next. */
  readonly position?: number;
  /** The run that asks this question already; its entries follow. */
  readonly attachedTo?: string;
}

/** The run is being stopped, or has ended already. */
export interface StoppingFrame {
  readonly type: "stopping";
  readonly runId: string;
}

/** One of the user's threads changed. */
export interface ThreadFrame {
  readonly type: "thread";
  readonly threadId: string;
  readonly title: string;
  /** Milliseconds since 1970. */
  readonly updatedAt: number;
  readonly activeRunId: string | null;
  readonly deleted: boolean;
}

/** The server shuts down; runs go on until the deadline at most. */
export interface DrainingFrame {
  readonly type: "draining";
  /** Milliseconds since 1970. */
  readonly deadlineMs: number;
}

/** A refusal, either of a frame or before a close. */
export interface ErrorFrame {
  readonly type: "error";
  /** Stable: what programs may act on. */
  readonly code: string;
  readonly message: string;
  /** Names exactly one record of the server's log. */
  readonly errorId: string;
  readonly retryable: boolean;
  readonly retryAfterMs?: number;
  readonly threadId?: string;
  readonly runId?: string;
  /** Of `unauthenticated`: what is wrong with the credential. */
  readonly reason?: string;
  /** Of `invalid_input`: its name. */
  readonly field?: string;
}

/** Sent every `heartbeatMs`, so that a client sees that the connection is alive. */
export interface HeartbeatFrame {
  readonly type: "ping";
}

/** An error that belongs to no log, as an event without an envelope. */
export interface RunErrorFrame {
  readonly type: "RUN_ERROR";
  readonly message: string;
  /** Stable: what programs may act on. */
  readonly code: string;
  readonly metadata: RunErrorMetadata;
  readonly runId?: string;
}

/** Fields that Isolane adds to a RUN_ERROR. */
export interface RunErrorMetadata {
  /** Names exactly one record of the server's log. */
  readonly errorId: string;
  /** Of `agent_error`: the code of the agent's own error. */
  readonly agentCode?: string;
}

/** One entry of a thread's log. It has no `type`. */
export interface EnvelopeFrame {
  /** Place of an entry in its thread's log, `<epoch>-<seq>`; opaque to clients. */
  readonly id: string;
  readonly chunk: AgUiEvent;
  readonly threadId: string;
  readonly runId: string;
}

/** An AG-UI event; its type says which other fields it has. */
export interface AgUiEvent {
  readonly type: string;
  readonly [field: string]: unknown;
}

/** What a client sends. */
export type ClientFrame =
  | HelloFrame
  | SubscribeFrame
  | UnsubscribeFrame
  | AuthFrame
  | PingFrame
  | AbortFrame
  | RunInput;

/** What the server sends. */
export type ServerFrame =
  | WelcomeFrame
  | SubscribedFrame
  | UnsubscribedFrame
  | AuthOkFrame
  | AuthExpiringFrame
  | PongFrame
  | AcceptedFrame
  | StoppingFrame
  | ThreadFrame
  | DrainingFrame
  | ErrorFrame
  | HeartbeatFrame
  | RunErrorFrame
  | EnvelopeFrame;
