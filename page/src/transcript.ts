/**
 * The fold of a thread's log into what stands on the page. Pure.
 *
 * Makes of a run's events what `@ag-ui/client` and the server make of them, so that who watched
 * the messages grow and who reads them later see the same. Events come in batches: a batch copies
 * the list once, and messages that it doesn't touch keep their identity.
 */
import { isAbout, toAsked } from "./asked";
import type { Asked } from "./asked";
import type { Entry, Event, Interrupt, Message } from "./wire";

export type RunState = "running" | "done" | "stopped" | "failed" | "waiting";

/** What is known of a run that was seen to start. */
export interface Run {
  runId: string;
  state: RunState;
  /** How many messages stood before it said anything. */
  base: number;
  error?: { code: string; agentCode?: string; message: string; errorId?: string };
  interrupts?: readonly Interrupt[];
}

/** A question that the log doesn't have yet. */
export interface Pending {
  runId: string;
  message: Message;
  rewindTo?: string;
  /** 1 is next; none while the server hasn't said that it waits. */
  position?: number;
  isTakenBack?: boolean;
}

export interface Transcript {
  messages: readonly Message[];
  /** Which run added a message, where that is known. */
  owners: ReadonlyMap<string, string>;
  runs: ReadonlyMap<string, Run>;
  activeRunId: string | null;
  pending: readonly Pending[];
  /** What agents asked and is settled, the oldest first. */
  asked: readonly Asked[];
}

export const EMPTY: Transcript = {
  messages: [],
  owners: new Map(),
  runs: new Map(),
  activeRunId: null,
  pending: [],
  asked: [],
};

/**
 * Return what stands when `messages` are all there is: after a load, or after a gap.
 *
 * `interrupts` are what the last run asks, whose events are not in sight.
 */
export function restart(
  messages: readonly Message[],
  pending: readonly Pending[] = [],
  interrupts: readonly Interrupt[] = [],
  asked: readonly Asked[] = [],
): Transcript {
  const known = new Set(messages.map((message) => message.id));
  const asking: Run = { runId: "asking", state: "waiting", base: messages.length, interrupts };
  return {
    ...EMPTY,
    messages,
    asked,
    runs: interrupts.length > 0 ? new Map([[asking.runId, asking]]) : EMPTY.runs,
    pending: pending.filter(({ message }) => !known.has(message.id)),
  };
}

/** Return what stands after `entries`. */
export function fold(before: Transcript, entries: readonly Entry[]): Transcript {
  if (entries.length === 0) return before;
  const draft = new Draft(before);
  for (const entry of entries) draft.add(entry.runId, entry.event);
  return draft.finished();
}

export function ask(before: Transcript, pending: Pending): Transcript {
  return { ...before, pending: [...before.pending, pending] };
}

/** Return what stands once the server took a question, perhaps to wait at `position`. */
export function accept(before: Transcript, runId: string, position?: number): Transcript {
  const taken = ({ position: _, ...pending }: Pending): Pending =>
    position === undefined ? pending : { ...pending, position };
  return {
    ...before,
    pending: before.pending.map((one) => (one.runId === runId ? taken(one) : one)),
  };
}

/** Return what is asked now, as long as nobody answered. */
export function openInterrupts(runs: ReadonlyMap<string, Run>): readonly Interrupt[] {
  const newest = [...runs.values()].at(-1);
  return newest?.state === "waiting" ? (newest.interrupts ?? []) : [];
}

/** Return what stands without the question of a run that will not be. */
export function withdraw(before: Transcript, runId: string): Transcript {
  return { ...before, pending: before.pending.filter((one) => one.runId !== runId) };
}

/** Return what stands once a waiting question was taken back; it keeps its place until its turn. */
export function takeBack(before: Transcript, runId: string): Transcript {
  const marked = (one: Pending) => (one.runId === runId ? { ...one, isTakenBack: true } : one);
  return { ...before, pending: before.pending.map(marked) };
}

/** Return who waits still when a run begins: who was queued behind it moves up. */
function moveUp(pending: readonly Pending[], runId: string): readonly Pending[] {
  const begun = pending.find((one) => one.runId === runId);
  const others = pending.filter((one) => one !== begun);
  if (begun !== undefined && begun.position === undefined) return others; // it never waited
  return others.map((one) =>
    one.position === undefined ? one : { ...one, position: Math.max(one.position - 1, 1) },
  );
}

type Of<K extends Event["type"]> = Extract<Event, { type: K }>;

/** A transcript that a batch is added to. */
class Draft {
  private messages: Message[];
  private owners: Map<string, string>;
  private runs: Map<string, Run>;
  private activeRunId: string | null;
  private pending: readonly Pending[];
  private asked: readonly Asked[];
  private run: Run | undefined;

  constructor(before: Transcript) {
    this.messages = [...before.messages];
    this.owners = new Map(before.owners);
    this.runs = new Map(before.runs);
    this.activeRunId = before.activeRunId;
    this.pending = before.pending;
    this.asked = before.asked;
  }

  finished(): Transcript {
    const { messages, owners, runs, activeRunId, pending, asked } = this;
    return { messages, owners, runs, activeRunId, pending, asked };
  }

  add(runId: string, event: Event): void {
    this.run = this.runs.get(runId);
    switch (event.type) {
      case "RUN_STARTED":
        return this.start(runId, event);
      case "RUN_FINISHED":
        return this.finish(runId, event);
      case "RUN_ERROR":
        return this.fail(runId, event);
      case "MESSAGES_SNAPSHOT":
        return this.setMessages(event);
      case "TEXT_MESSAGE_START":
        return this.open(event.messageId, { role: event.role ?? "assistant", content: "" });
      case "REASONING_MESSAGE_START":
        return this.open(event.messageId, { role: "reasoning", content: "" });
      case "TEXT_MESSAGE_CONTENT":
      case "REASONING_MESSAGE_CONTENT":
        return this.addContent(event.messageId, event.delta);
      case "TOOL_CALL_START":
        return this.startCall(event);
      case "TOOL_CALL_ARGS":
        return this.addArguments(event);
      case "TOOL_CALL_RESULT":
        return this.put(event.messageId, {
          role: "tool",
          toolCallId: event.toolCallId,
          content: event.content,
        });
      case "ACTIVITY_SNAPSHOT":
        if (event.replace === false && this.find(event.messageId) >= 0) return;
        return this.put(event.messageId, {
          role: "activity",
          activityType: event.activityType,
          content: event.content,
        });
      default: // steps, states and customs leave no message behind
    }
  }

  private start(runId: string, event: Of<"RUN_STARTED">): void {
    const props = event.input?.forwardedProps as { rewindTo?: unknown } | undefined;
    const added = event.input?.messages ?? [];
    this.settleAsked(added.length > 0);
    this.rewind(props?.rewindTo);
    for (const message of added) {
      if (this.messages.some(({ id }) => id === message.id)) continue;
      this.messages.push(message);
      this.owners.set(message.id, runId);
    }
    this.runs.set(runId, { runId, state: "running", base: this.messages.length });
    this.activeRunId = runId;
    this.pending = moveUp(this.pending, runId);
  }

  /** A run that begins settles what the last one asked, also when it answers nothing. */
  private settleAsked(isQuestion: boolean): void {
    const open = openInterrupts(this.runs);
    if (open.length === 0 || this.asked.some((one) => isAbout(one, open))) return;
    const reply = { kind: isQuestion ? "left" : "elsewhere" } as const;
    this.asked = [...this.asked, toAsked(open, this.messages.at(-1)?.id ?? "", reply)];
  }

  private rewind(messageId: unknown): void {
    const place = this.messages.findIndex(({ id }) => id === messageId);
    if (place < 0) return;
    const dropped = new Set(this.messages.slice(place).map(({ id }) => id));
    this.messages.length = place;
    this.asked = this.asked.filter(({ afterId }) => !dropped.has(afterId));
  }

  private finish(runId: string, event: Of<"RUN_FINISHED">): void {
    const outcome = event.outcome;
    if (outcome?.type === "interrupt") {
      this.end(runId, { state: "waiting", interrupts: outcome.interrupts });
      return;
    }
    this.end(runId, { state: outcome?.type === "cancelled" ? "stopped" : "done" });
  }

  private fail(runId: string, event: Of<"RUN_ERROR">): void {
    const { errorId, agentCode } = (event.metadata ?? {}) as Record<string, string | undefined>;
    this.end(runId, {
      state: "failed",
      error: {
        code: event.code ?? "unknown",
        message: event.message,
        ...(agentCode !== undefined && { agentCode }),
        ...(errorId !== undefined && { errorId }),
      },
    });
  }

  private end(runId: string, how: Pick<Run, "state" | "error" | "interrupts">): void {
    const base = this.run?.base ?? this.messages.length;
    this.runs.set(runId, { runId, base, ...how });
    this.messages = this.messages.filter((message, at) => at < base || saysSomething(message));
    this.pending = this.pending.filter((one) => one.runId !== runId);
    if (this.activeRunId === runId) this.activeRunId = null;
  }

  private setMessages(event: Of<"MESSAGES_SNAPSHOT">): void {
    if (this.run === undefined) return;
    const before = this.messages.slice(0, this.run.base);
    const known = new Set(before.map(({ id }) => id));
    const fresh = event.messages.filter(({ id }) => !known.has(id));
    for (const { id } of fresh) this.owners.set(id, this.run.runId);
    this.messages = [...before, ...fresh];
  }

  /** Return where one of this run's own messages stands, or -1; the newest are looked at first. */
  private find(messageId: string): number {
    const base = this.run?.base ?? this.messages.length;
    for (let at = this.messages.length - 1; at >= base; at -= 1) {
      if (this.messages[at]?.id === messageId) return at;
    }
    return -1;
  }

  private open(messageId: string, message: object): void {
    if (this.find(messageId) < 0) this.put(messageId, message);
  }

  private put(messageId: string, content: object): void {
    if (this.run === undefined) return;
    const message = { id: messageId, ...content } as Message;
    const at = this.find(messageId);
    if (at >= 0) {
      this.messages[at] = message;
      return;
    }
    this.messages.push(message);
    this.owners.set(messageId, this.run.runId);
  }

  private addContent(messageId: string, delta: string): void {
    const at = this.find(messageId);
    const message = this.messages[at];
    if (message === undefined || message.role === "activity") return;
    const content = typeof message.content === "string" ? message.content : "";
    this.messages[at] = { ...message, content: content + delta };
  }

  private startCall(event: Of<"TOOL_CALL_START">): void {
    if (this.callPlace(event.toolCallId) >= 0) return;
    let at = this.find(event.parentMessageId ?? "");
    if (this.messages[at]?.role !== "assistant") {
      const messageId = at >= 0 ? event.toolCallId : (event.parentMessageId ?? event.toolCallId);
      this.open(messageId, { role: "assistant" });
      at = this.find(messageId);
    }
    const parent = this.messages[at];
    if (parent?.role !== "assistant") return;
    const call = {
      id: event.toolCallId,
      type: "function" as const,
      function: { name: event.toolCallName, arguments: "" },
    };
    this.messages[at] = { ...parent, toolCalls: [...(parent.toolCalls ?? []), call] };
  }

  private addArguments(event: Of<"TOOL_CALL_ARGS">): void {
    const at = this.callPlace(event.toolCallId);
    const message = this.messages[at];
    if (message?.role !== "assistant") return;
    const toolCalls = (message.toolCalls ?? []).map((call) => {
      if (call.id !== event.toolCallId) return call;
      const { name, arguments: text } = call.function;
      return { ...call, function: { name, arguments: text + event.delta } };
    });
    this.messages[at] = { ...message, toolCalls };
  }

  private callPlace(callId: string): number {
    const base = this.run?.base ?? this.messages.length;
    for (let at = this.messages.length - 1; at >= base; at -= 1) {
      const message = this.messages[at];
      if (message?.role !== "assistant") continue;
      if (message.toolCalls?.some((call) => call.id === callId)) return at;
    }
    return -1;
  }
}

function saysSomething(message: Message): boolean {
  return message.role !== "assistant" || !!message.content || !!message.toolCalls?.length;
}
