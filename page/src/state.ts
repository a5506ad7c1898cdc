/** The state of the page, and its first value. */
import type { State as Link, StateDetails } from "@isolane/client";
import { newId } from "./ids";
import { EMPTY } from "./transcript";
import type { Transcript } from "./transcript";
import type { Turn } from "./turns";
import type { Account } from "./wire";

export type Phase = "new" | "loading" | "ready" | "missing" | "failed";

export interface ChatState {
  session: "loading" | "out" | "in";
  account: Account | null;
  /** Why the user has to sign in again. */
  farewell: string | null;
  link: Link;
  details: StateDetails;
  /** Number of entries that came after the last reconnect, shown for a while. */
  caughtUp: number | null;
  threadId: string;
  phase: Phase;
  transcript: Transcript;
  turns: readonly Turn[];
  /** The run that was told to stop and has not ended. */
  stoppingId: string | null;
}

/** Return the state before anything is known. */
export const newState = (): ChatState => ({
  session: "loading",
  account: null,
  farewell: null,
  link: "closed",
  details: {},
  caughtUp: null,
  threadId: newId(),
  phase: "new",
  transcript: EMPTY,
  turns: [],
  stoppingId: null,
});
