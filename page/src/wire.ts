/** The shapes that cross the wire, as the page reads them. */
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

/** What the list knows of a thread. Times are milliseconds since 1970. */
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
  /** Asks for the page of the older ones; null when there are none. */
  before: string | null;
  head: string;
  /** What the last run asks, as long as nobody answered. */
  interrupts: Interrupt[];
}

export interface Account {
  userId: string;
  expiresAt: number | null;
  username?: string;
}

/** How people may sign in here. */
export interface Ways {
  /** With the name and password of a local account. */
  password: boolean;
  providers: { name: string; label: string; href: string }[];
}

/** One place where the user is signed in. Times are milliseconds since 1970. */
export interface Session {
  sessionId: string;
  /** What its browser calls itself. */
  device: string;
  createdAt: number;
  lastSeenAt: number;
  isCurrent: boolean;
}
