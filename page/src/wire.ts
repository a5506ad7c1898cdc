/** The wire's shapes as the page reads them. */
import type { AGUIEvent, EventType, Interrupt, Message } from "@ag-ui/core";

export type { Interrupt, Message, ToolMessage } from "@ag-ui/core";

type Plain<E> = E extends { type: infer K extends EventType }
  ? Omit<E, "type"> & { type: `${K}` }
  : never;

/** One AG-UI event as JSON has it: its type is plain text. */
export type Event = Plain<AGUIEvent>;

/** One entry of a thread's log. */
export interface Entry {
  readonly id: string;
  readonly event: Event;
  readonly runId: string;
}

/** A thread in the list. Times are milliseconds since 1970. */
export interface ThreadSummary {
  threadId: string;
  title: string;
  createdAt: number;
  updatedAt: number;
  activeRunId: string | null;
}

export interface ThreadPage {
  threads: ThreadSummary[];
  nextCursor: string | null;
}

/** A thread with a page of the messages of its finished runs; its log goes on after `head`. */
export interface Thread extends ThreadSummary {
  messages: Message[];
  /** Cursor of the page with older messages; null when there are none. */
  before: string | null;
  head: string;
  /** Open questions of the last run. */
  interrupts: Interrupt[];
}

export interface Account {
  userId: string;
  expiresAt: number | null;
  username?: string;
}

/** The ways to sign in here. */
export interface Ways {
  /** True when people may sign in with a local account. */
  password: boolean;
  providers: { name: string; label: string; href: string }[];
}

/** One session of the user. Times are milliseconds since 1970. */
export interface Session {
  sessionId: string;
  /** Name of the browser, from its own header. */
  device: string;
  createdAt: number;
  lastSeenAt: number;
  isCurrent: boolean;
}
